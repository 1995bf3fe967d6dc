"""The smallest settings of each kind of transport, so that it can be asked what it can do before there is a route for it."""

from collections.abc import Mapping
from typing import Final

from lading.ports import Settings

_HOST: Final = "operator@staging.example:/srv/inbox"

EXAMPLES: Final[Mapping[str, Settings]] = {
    "local": {"path": "inbox"},
    "disk": {"path": "disk", "volume": "0123456789abcdef"},
    "robocopy": {"path": "//server/share/inbox"},
    "rsync": {"target": _HOST},
    "rsync-third-party": {
        "target": _HOST,
        "identity": "key",
        "known_hosts": "hosts",
        "source": {"host": "user@transfer.example", "path": "/data", "seen_at": "/data"},
    },
    "sftp": {"target": _HOST},
    "s3": {"bucket": "drop"},
    "webdav": {"url": "https://cloud.example/remote.php/dav/files/user/Inbox"},
    "smb": {"share": "//server/share/inbox", "user": "user", "password": "env:UNUSED"},
    "ftps": {"url": "ftps://ftp.example/inbox", "user": "user", "password": "env:UNUSED"},
    "globus": {
        "account": {"client": "00000000-0000-0000-0000-000000000000"},
        "source": {"collection": "here", "root": "data", "spool": "data/spool"},
        "inbox": {"collection": "there", "path": "/inbox"},
    },
}
