"""A stand-in for Nextcloud's WebDAV: files, chunked upload version 2, checksums. No users, shares, versions or apps."""
