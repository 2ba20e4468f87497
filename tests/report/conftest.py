"""A reader of pages that notices what a browser forgives."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

_VOID = {"meta", "img", "br", "source"}
_ADDRESSES = {"src", "href", "srcset", "action", "data", "poster", "xlink:href", "background"}


class Reader(HTMLParser):
    """Tags open and close in order, nothing is fetched, nothing runs."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        assert tag not in {"script", "link", "iframe", "object", "embed", "form", "base"}, tag
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag}: {name}"
            if name in _ADDRESSES:
                assert value.startswith("data:image/png;base64,"), f"{tag}: {name}={value[:80]}"
            if name == "style":
                assert "url(" not in value
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["style"]:
            assert "url(" not in data
            assert "@import" not in data
        elif data.strip():
            self.text.append(data.strip())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of all tags of a name."""
        return [attrs for name, attrs in self.seen if name == tag]


@pytest.fixture
def read():
    def read(markup: str) -> Reader:
        reader = Reader()
        reader.feed(markup)
        reader.close()
        assert reader.open == [], f"left open: {reader.open}"
        return reader

    return read
