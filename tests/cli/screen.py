"""A terminal, as far as the display needs one: text, line ends, wrapping, cursor up, erase."""

from __future__ import annotations

import re

_PIECE = re.compile(r"\x1b\[(?P<number>\d*)(?P<command>[A-Za-z])|(?P<character>.)", re.DOTALL)


class Screen:
    """What one would see. It does not scroll: rows are kept for ever."""

    def __init__(self, width: int = 80) -> None:
        self.width = width
        self.rows: list[str] = [""]
        self.row = 0
        self.column = 0
        self.unknown: list[str] = []

    def feed(self, text: str) -> None:
        for piece in _PIECE.finditer(text):
            if piece["command"]:
                self._control(piece["command"], int(piece["number"] or 1))
            elif piece["character"] == "\n":  # the terminal driver makes it a carriage return and a line feed
                self.column = 0
                self._down()
            elif piece["character"] == "\r":
                self.column = 0
            else:
                self._put(piece["character"])

    def _control(self, command: str, number: int) -> None:
        match command:
            case "A":
                assert number <= self.row, f"moved up {number} rows from row {self.row}"
                self.row -= number
            case "K":
                self.rows[self.row] = self.rows[self.row][: self.column]
            case "J":
                self.rows[self.row] = self.rows[self.row][: self.column]
                del self.rows[self.row + 1 :]
            case "m":
                pass
            case _:
                self.unknown.append(command)

    def _put(self, character: str) -> None:
        if self.column == self.width:
            self.column = 0
            self._down()
        row = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = row[: self.column] + character + row[self.column + 1 :]
        self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")

    @property
    def lines(self) -> list[str]:
        found = [row.rstrip() for row in self.rows]
        while found and not found[-1]:
            found.pop()
        return found
