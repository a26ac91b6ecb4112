"""An HTML page, read by the standard library."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "link", "input"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    above: Element | None
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def get(self, attribute: str) -> str:
        return self.attributes.get(attribute) or ""

    @property
    def all(self) -> list[Element]:
        """All elements in it, in order."""
        return [each for child in self.children for each in (child, *child.all)]

    def find(self, *tags: str) -> list[Element]:
        return [each for each in self.all if each.tag in tags]

    def within(self, tag: str) -> bool:
        return self.above is not None and (self.above.tag == tag or self.above.within(tag))


class Page(HTMLParser):
    """The tree of a page's elements, and its lines of text; complains of tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = self.at = Element("", {}, None)
        self.lines: list[str] = []
        self.feed(html)
        self.close()
        assert self.at is self.root, f"never closed: {self.at}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(dict(attributes)) == len(attributes), f"an attribute twice: {tag} {attributes}"
        element = Element(tag, dict(attributes), self.at)
        self.at.children.append(element)
        if tag not in VOID:
            self.at = element

    def handle_endtag(self, tag: str) -> None:
        assert self.at.tag == tag and self.at.above, f"</{tag}> closes {self.at.tag}"
        self.at = self.at.above

    def handle_data(self, data: str) -> None:
        self.at.text += data
        if data.strip() and self.at.tag not in ("style", "script"):
            self.lines.append(" ".join(data.split()))

    def find(self, *tags: str) -> list[Element]:
        return self.root.find(*tags)
