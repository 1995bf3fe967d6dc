"""What is asked of OMERO about the files of many large Filesets comes in answers that fit into its messages."""

from typing import cast

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

from omero.rtypes import rlong, rstring, unwrap

from omero_importer import holdings
from omero_importer.filesets import Place
from omero_importer.ice import ParametersI
from omero_importer.session import Connection

FILESETS, FILES = 30, 6_000
MESSAGE = 64 << 20
ROW = 400
"""Bytes in an answer, with long names. The stand-in's were 284 with short ones."""
REST = [rlong(1), rlong(2), rstring("hash"), rstring("MD5-128"), rstring("path/"), rstring("name")]


class Queries:
    """OMERO with as many large Filesets as it is asked about. Remembers how many rows its longest answer had."""

    def __init__(self) -> None:
        self.longest = 0

    def projection(self, query: str, parameters: ParametersI, *_: object) -> list[list[object]]:
        ids = unwrap(parameters.map["ids"])
        if "FilesetAnnotationLink" in query:
            return [[rlong(one)] for one in range(1, FILESETS + 1)]
        if "FilesetEntry" not in query:
            return [[rlong(one), rlong(one)] for one in ids]
        if "count(" in query:
            return [[rlong(one), rlong(FILES)] for one in ids]
        rows: list[list[object]] = [[rlong(one), rstring(f"{one}/{file}")] for one in ids for file in range(FILES)]
        if "o.hash" in query:
            rows = [[*row, *REST] for row in rows]
        self.longest = max(self.longest, len(rows))
        return rows


class Server:
    """What of a connection is needed."""

    def __init__(self) -> None:
        self.queries = Queries()


def test_no_answer_about_an_image_of_many_chunks_is_larger_than_a_message_may_be() -> None:
    server = Server()
    connection = cast("Connection", server)

    found = list(holdings.held(connection, [1], Place("Dataset", 1, 1, "P/s/S/")))
    stored = sum(1 for _ in holdings.stored_files(connection, [one.id for one in found]))

    assert [one.id for one in found] == list(range(1, FILESETS + 1))
    assert {len(one.paths) for one in found} == {FILES}
    assert stored == FILESETS * FILES
    assert server.queries.longest * ROW < MESSAGE
