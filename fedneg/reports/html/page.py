"""Build one self-contained HTML page from titles, text, tables and figures.

The one job: pieces in, a string out. Everything is escaped; nothing in the page needs a
second file or the network, and nothing but the filters of a table needs JavaScript;
light and dark follow the reader's system.
Templates are Python strings because Flower's app bundle carries only ``.py`` files.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from fedneg.core.files import write_bytes
from fedneg.core.formats import plain
from fedneg.core.quality import ACCURACY, told
from fedneg.reports.html.figures import THEME, Picture
from fedneg.reports.html.filter import FILTER_SCRIPT
from fedneg.reports.html.style import BLOCKS, CSS

Format = Callable[[object], str]
Content: TypeAlias = str | Mapping[str, object] | pd.DataFrame


def link(text: str, path: str) -> Markup:
    """Return a link to a file beside the page; `path` is relative, with '/'."""
    return Markup('<a href="{}">{}</a>').format(quote(path), text)


# How an outcome looks: its colour, its sign in a table and the shape of its banner.
_SIGNS = {
    "good": "\N{CHECK MARK}",
    "bad": "\N{MULTIPLICATION X}",
    "open": "\N{WHITE CIRCLE}",
}


def badge(kind: str, text: str) -> Markup:
    """Return an outcome for a table cell; `kind` is good, bad or open."""
    sign = Markup('<span aria-hidden="true">{}</span>').format(_SIGNS[kind])
    return Markup('<span class="badge {}">{} {}</span>').format(kind, sign, text)


def prose(text: str) -> Markup:
    """Return words for a table cell that keeps room for them in a narrow window."""
    return Markup('<div class="prose">{}</div>').format(text)


def name_with_note(name: str, note: str) -> Markup:
    """Return a name for a table cell, with what belongs to it small below."""
    return Markup("{}<small>{}</small>").format(name, note) if note else escape(name)


@dataclass(frozen=True)
class Card:
    """A headline number: what it is, its value, and a line to compare it with."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class _Cell:
    """A table cell ready for the template."""

    text: str | Markup
    numeric: bool


class Page:
    """A page that is written from top to bottom, one piece after the other.

    Parameters
    ----------
    title : str
        Heading and window title.
    subtitle : str
        One or two sentences in plain words below it.
    footer : str
        Small print at the end; no time of day, so that same input means same bytes.
    quality : str
        What the page says for accuracy.

    Notes
    -----
    Each method returns the page, so calls can be chained. Strings are escaped;
    `markupsafe.Markup`, as `link` returns it, is the one way round that. Notices stand
    above everything else wherever in the code they were added.
    """

    def __init__(
        self,
        title: str,
        subtitle: str = "",
        *,
        footer: str = "",
        quality: str = ACCURACY,
    ) -> None:
        head = {"title": title, "subtitle": subtitle, "footer": footer}
        self._head = {key: told(text, quality) for key, text in head.items()}
        self._quality = quality
        self._notices: list[str] = []
        self._sections: list[tuple[str, list[Markup]]] = [("", [])]

    def _add(self, template: str, **values: object) -> "Page":
        """Append a rendered block to the current section."""
        block = _ENVIRONMENT.get_template(template).render(**values)
        block = _renamed(block, self._quality)
        self._sections[-1][1].append(Markup(block))
        return self

    def notice(self, text: str) -> "Page":
        """Add a warning that nobody can miss."""
        self._notices.append(told(text, self._quality))
        return self

    def verdict(
        self, kind: str, label: str, outcome: str, lines: Iterable[str]
    ) -> "Page":
        """Add a banner; `kind` is good, bad or open, the last line is small print."""
        values = {"label": label, "outcome": outcome, "lines": list(lines)}
        return self._add("verdict", kind=kind, **values)

    def section(self, heading: str) -> "Page":
        """Start a section; later pieces belong to it."""
        self._sections.append((told(heading, self._quality), []))
        return self

    def text(self, *paragraphs: str) -> "Page":
        """Add paragraphs."""
        return self._add("text", paragraphs=paragraphs)

    def bullets(self, items: Iterable[str]) -> "Page":
        """Add a list of statements."""
        return self._add("bullets", items=list(items))

    def cards(self, cards: Iterable[Card]) -> "Page":
        """Add a row of headline numbers."""
        return self._add("cards", cards=list(cards))

    def facts(self, facts: Mapping[str, object]) -> "Page":
        """Add a list of names and values."""
        return self._add("facts", facts={k: _text(v) for k, v in facts.items()})

    def table(
        self,
        frame: pd.DataFrame,
        *,
        caption: str,
        formats: Mapping[str, Format] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> "Page":
        """Add a table that scrolls within itself where the window is too narrow.

        Parameters
        ----------
        frame : DataFrame
            The first column names the row. A column is set as numbers (to the right)
            if it has a format, or if every value in it is a number or null.
        caption : str
            What the table shows.
        formats, headers : mapping of column name
            How to print a value (`rate`, `signed`, `human_bytes`, ...; otherwise
            `plain`), and what to write above the column (otherwise its name).
        """
        return self._add("table", **_table(frame, caption, formats, headers))

    def filtered_table(
        self,
        frame: pd.DataFrame,
        *,
        caption: str,
        choices: Mapping[str, Sequence[Sequence[str]]],
        search: str,
        formats: Mapping[str, Format] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> "Page":
        """Add a table whose rows can be chosen and sorted, where there is JavaScript.

        Parameters
        ----------
        frame, caption, formats, headers
            As `table`.
        choices : mapping
            From a select box's label to what each row answers to, a list per row.
        search : str
            Label of the text box, which looks into the first column.
        """
        options = {
            name: list(dict.fromkeys(value for values in rows for value in values))
            for name, rows in choices.items()
        }
        by_row = zip(*choices.values(), strict=True)
        keys = [json.dumps([list(values) for values in row]) for row in by_row]
        return self._add(
            "filtered",
            **_table(frame, caption, formats, headers),
            choices=options,
            keys=keys,
            search=search,
            script=Markup(FILTER_SCRIPT),
        )

    def figure(self, picture: Picture, caption: str) -> "Page":
        """Add a figure; the page shows its wide or its narrow drawing."""
        drawings = {
            width: Markup(_inline(svg.decode(), f"{picture.name}-{width}"))
            for width, svg in picture.svg.items()
        }
        return self._add("figure", drawings=drawings, alt=picture.alt, caption=caption)

    def details(
        self,
        summary: str,
        content: Content,
        *,
        formats: Mapping[str, Format] | None = None,
        headers: Mapping[str, str] | None = None,
        caption: str = "",
    ) -> "Page":
        """Add a part that is closed at first: a table, names and values, or text.

        A table has the summary as its caption, if no other is given.
        """
        values: dict[str, object] = {"summary": summary, "kind": "pre"}
        if isinstance(content, pd.DataFrame):
            values["kind"] = "table"
            values |= _table(content, caption or summary, formats, headers)
        elif isinstance(content, str):
            values["content"] = content
        else:
            values["kind"] = "facts"
            values["facts"] = {k: _text(v) for k, v in content.items()}
        return self._add("details", **values)

    def render(self) -> str:
        """Return the whole page as HTML."""
        sections = [part for part in self._sections if part[0] or part[1]]
        return _ENVIRONMENT.get_template("page").render(
            **self._head, notices=self._notices, sections=sections, css=Markup(CSS)
        )

    def write(self, path: Path) -> Path:
        """Write the page to `path` in one step and return `path`."""
        write_bytes(path, self.render().encode(), shared=True)
        return path


def _renamed(block: str, quality: str) -> str:
    """Return HTML in which what a reader sees of accuracy has the task's name."""
    if quality == ACCURACY:
        return block
    parts = re.split(r"(<script.*?</script>|<[^>]*>)", block, flags=re.DOTALL)
    shown = str(escape(quality))
    for place, part in enumerate(parts):
        if not part.startswith("<"):
            parts[place] = told(part, shown)
        elif not part.startswith("<script"):
            parts[place] = re.sub(
                r'(alt|aria-label|title)="[^"]*"', lambda m: told(m[0], shown), part
            )
    return "".join(parts)


def _text(value: object) -> str | Markup:
    """Return a value as text, markup untouched."""
    return value if isinstance(value, Markup) else plain(value)


def _table(
    frame: pd.DataFrame,
    caption: str,
    formats: Mapping[str, Format] | None,
    headers: Mapping[str, str] | None,
) -> dict[str, object]:
    """Return the values that the table template needs."""
    columns: Sequence[str] = [str(name) for name in frame.columns]
    shown: list[list[_Cell]] = []
    heads: list[_Cell] = []
    for place, name in enumerate(columns):
        values = frame.iloc[:, place].tolist()
        form = (formats or {}).get(name)
        numeric = form is not None or all(
            isinstance(value, int | float) or value is None for value in values
        )
        shown.append([_Cell(form(v) if form else _text(v), numeric) for v in values])
        heads.append(_Cell((headers or {}).get(name, name), numeric))
    rows = [list(row) for row in zip(*shown, strict=True)]
    return {"caption": caption, "heads": heads, "rows": rows}


def _inline(svg: str, prefix: str) -> str:
    """Return a matplotlib SVG as an element for a page that holds several of them.

    Ids get a prefix, since two drawings must not share one; colours of `THEME` become
    CSS variables; the size is left to the page; name spaces and metadata go.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<(metadata|style)[ >].*?</\1>", "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">") + 1 :].strip()
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r"url\(#", f"url(#{prefix}-", body)
    body = re.sub(r'xlink:href="#', f'href="#{prefix}-', body)
    names = {light: name for name, (light, _) in THEME.items()}

    def swap(match: re.Match[str]) -> str:
        name = names.get(match[2])
        return f"{match[1]}: var(--{name})" if name else match[0]

    body = re.sub(r"(fill|stroke): (#[0-9a-f]{6})", swap, body)
    shape = view[0] if view else ""
    return f'<svg {shape} aria-hidden="true" focusable="false">\n{body}'


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.DictLoader(BLOCKS),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
