"""The starter settings that `lading init` writes."""

import re

_SERVER = """\
# --- the staging host -------------------------------------------------------------------------------------------------

[inboxes.main]
path = "{inbox}"            # the staging inbox{inbox_note}
# quiet = 60                # seconds without change before a folder that was dropped in directly counts as complete
# bare_route = "{repository}"{pad}# the route of such folders; empty refuses them
# keep_days = 7             # how long the staged copy stays after it was verified

{repository_table}
# [mail]                    # tell people what became of their sessions, and the operators what is wrong
# server = "smtp.example.org"
# sender = "lading@example.org"
# admin = ["imaging@example.org"]
# credentials = "env"       # LADING_MAIL_USER and LADING_MAIL_PASSWORD; or "keyring", "file:/path" (mode 0600); empty for none
# [people]
# template = "{{sender}}@example.org"   # or {{participant}}; single ones: addresses = {{ alice = "a.smith@example.org" }}

[server]
database = "embedded"       # or "postgresql://user@host/lading" (password in ~/.pgpass)
workers = 2
"""

_XNAT = """\
[repositories.xnat]
kind = "xnat"
url = "{address}"
credentials = "env"         # LADING_XNAT_USER and LADING_XNAT_PASSWORD; or "keyring", "netrc", "file:/path" (mode 0600)
imports = 2                 # imports at the same time, over all workers
# ca_bundle = "/etc/ssl/your-ca.pem"
# inbox_path = "/data/xnat/inbox"   # where XNAT itself sees the inbox above
"""

_OMERO = """\
[repositories.omero]
kind = "omero"
host = "{address}"
# port = 4064
credentials = "env"         # LADING_OMERO_USER and LADING_OMERO_PASSWORD; or "keyring", "file:/path" (mode 0600)
imports = 2                 # imports at the same time, over all workers: OMERO shares five slots with everybody
# ssl = {{ ca = "/etc/ssl/omero.pem", check_name = false }}   # OMERO's own certificate; where no authority has signed it
"""

_ROUTE = """\
# --- the way from the instrument into the repository --------------------------------------------------------------------

[routes.{repository}]
inbox = "main"
repository = "{repository}"
transport = {{ kind = "{transport}", {target} }}
# exclude = ["*.tmp"]       # junk such as Thumbs.db and ._files is left out anyway
{imports}
[routes.{repository}.checks.layout]
# participant = "sub-[0-9]{{3}}"
# session = "(MR|CT|PET)[0-9]+"
"""

_XNAT_IMPORTS = """\
import = {{ route = "auto" }} # "inbox": XNAT reads its inbox folder; "upload": over HTTP
"""

_OMERO_DIGESTS = """\
digests = ["sha1"]          # what OMERO compares by; computed in the same read as our own
"""

_OMERO_IMPORTS = """
[routes.omero.import]
project = "{{project}}"
dataset = "{{participant}}_{{session}}"
# group = "lab"             # else the account's own
# owner = "{{participant}}"   # whose the data shall be; the account then needs OMERO's privilege Sudo
"""

_AGENT = """\
# --- the instrument computer --------------------------------------------------------------------------------------------

[agent]
scan_every = 30             # seconds

[[agent.watch]]
path = "{watch}"
route = "{repository}"
template = "{{project}}/{{participant}}/{{session}}"
quiet = 60                  # a session is complete when nothing in it changed for so many seconds ...
# marker = "DONE.txt"       # ... and, when set, this file is there too
clean = false               # true: remove the source after grace_days, only against a receipt for every file
grace_days = 7
"""


_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def _quoted(text: str) -> str:
    """What stands for `text` between the quotes of TOML: D:\\Export is written with two backslashes."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def starter(role: str, *, inbox: str, repository: str, address: str, watch: str) -> str:
    """The text of a lading.toml for `role` ("server", "agent" or "both"); `repository` is "xnat" or "omero", at `address`."""
    remote = ":" in inbox and not _DRIVE.match(inbox)
    inbox, address, watch = (_quoted(text) for text in (inbox, address, watch))
    transport, target = ("rsync", f'target = "{inbox}"') if remote else ("local", f'path = "{inbox}"')
    xnat = repository == "xnat"
    parts = ['home = "lading-state"       # what the programs remember: outbox, database, keys, logs\n']
    if role in ("server", "both"):
        table = (_XNAT if xnat else _OMERO).format(address=address)
        note = "; for XNAT's own inbox route: its inbox folder as mounted here" if xnat else ""
        parts.append(
            _SERVER.format(
                inbox=inbox,
                inbox_note=note,
                repository=repository,
                pad=" " * (11 - len(repository)),
                repository_table=table,
            )
        )
    imports = "" if xnat else _OMERO_DIGESTS
    if role != "agent":
        imports += (_XNAT_IMPORTS if xnat else _OMERO_IMPORTS).format()
    route = _ROUTE.format(transport=transport, target=target, repository=repository, imports=imports)
    if role == "agent":
        route = (
            "\n".join(line for line in route.splitlines() if not line.startswith(("inbox =", "repository ="))) + "\n"
        )
    parts.append(route)
    if role in ("agent", "both"):
        parts.append(_AGENT.format(watch=watch, repository=repository))
    return "\n".join(parts)
