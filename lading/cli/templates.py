"""The starter settings that `lading init` writes."""

_SERVER = """\
# --- the staging host -------------------------------------------------------------------------------------------------

[inboxes.main]
path = "{inbox}"            # the staging inbox; for XNAT's own inbox route: its inbox folder as mounted here
# quiet = 60                # seconds without change before a folder that was dropped in directly counts as complete
# bare_route = "xnat"       # the route of such folders; empty refuses them
# keep_days = 7             # how long the staged copy stays after it was verified

[repositories.xnat]
kind = "xnat"
url = "{xnat}"
credentials = "env"         # LADING_XNAT_USER and LADING_XNAT_PASSWORD; or "keyring", "netrc", "file:/path" (mode 0600)
imports = 2                 # imports at the same time, over all workers
# ca_bundle = "/etc/ssl/your-ca.pem"
# inbox_path = "/data/xnat/inbox"   # where XNAT itself sees the inbox above

[server]
database = "embedded"       # or "postgresql://user@host/lading" (password in ~/.pgpass)
workers = 2
"""

_ROUTE = """\
# --- the way from the instrument into the repository --------------------------------------------------------------------

[routes.xnat]
inbox = "main"
repository = "xnat"
transport = {{ kind = "{transport}", {target} }}
# exclude = ["*.tmp"]       # junk such as Thumbs.db and ._files is left out anyway
import = {{ route = "auto" }} # "inbox": XNAT reads its inbox folder; "upload": over HTTP

[routes.xnat.checks.layout]
# participant = "sub-[0-9]{{3}}"
# session = "(MR|CT|PET)[0-9]+"
"""

_AGENT = """\
# --- the instrument computer --------------------------------------------------------------------------------------------

[agent]
scan_every = 30             # seconds

[[agent.watch]]
path = "{watch}"
route = "xnat"
template = "{{project}}/{{participant}}/{{session}}"
quiet = 60                  # a session is complete when nothing in it changed for so many seconds ...
# marker = "DONE.txt"       # ... and, when set, this file is there too
clean = false               # true: remove the source after grace_days, only against a receipt for every file
grace_days = 7
"""


def starter(role: str, *, inbox: str, xnat: str, watch: str) -> str:
    """The text of a lading.toml for `role` ("server", "agent" or "both")."""
    remote = ":" in inbox and inbox[1:3] != ":\\"
    transport, target = ("rsync", f'target = "{inbox}"') if remote else ("local", f'path = "{inbox}"')
    parts = ['home = "lading-state"       # what the programs remember: outbox, database, keys, logs\n']
    if role in ("server", "both"):
        parts.append(_SERVER.format(inbox=inbox, xnat=xnat))
    route = _ROUTE.format(transport=transport, target=target)
    if role == "agent":
        route = (
            "\n".join(
                line for line in route.splitlines() if not line.startswith(("inbox =", "repository =", "import ="))
            )
            + "\n"
        )
    parts.append(route)
    if role in ("agent", "both"):
        parts.append(_AGENT.format(watch=watch))
    return "\n".join(parts)
