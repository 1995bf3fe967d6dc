"""A helper process of `dicom_scan`: reads requests from its input, answers on its output, ends when the input does."""

import pickle
import sys

from lading.checks.dicom_headers import Scanned
from lading.checks.dicom_scan import read_chunk
from lading.errors import LadingError


def main() -> None:
    """Answer until the parent closes the pipe, or is gone."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            root, paths = pickle.load(requests)  # noqa: S301 - our own parent wrote it
        except (EOFError, KeyboardInterrupt):
            return
        answer: list[Scanned] | LadingError
        try:
            answer = read_chunk(root, paths)
        except LadingError as exc:
            answer = exc
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
