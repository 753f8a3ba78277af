"""Build one self-contained HTML page from titles, text, tables and figures.

The one job: pieces in, a string out. Everything is escaped; nothing in the page needs
JavaScript, a second file or the network; light and dark follow the reader's system.
Templates are Python strings because Flower's app bundle carries only ``.py`` files.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup

from fedneg.figures import THEME, Picture, number

Format = Callable[[object], str]
Content: TypeAlias = str | Mapping[str, object] | pd.DataFrame
MISSING = "\N{EN DASH}"


def rate(value: object) -> str:
    """Return a fraction or a loss with four decimals, a dash for null."""
    found = number(value)
    return MISSING if found is None else f"{found:.4f}"


def signed(value: object) -> str:
    """Return a difference with its sign and four decimals, a dash for null."""
    found = number(value)
    if found is None:
        return MISSING
    return f"{found:+.4f}".replace("-", "\N{MINUS SIGN}")


def human_seconds(value: object) -> str:
    """Return a duration given in seconds as people say it, a dash for null."""
    found = number(value)
    if found is None:
        return MISSING
    # Bounds as they round: 59.96 s is a minute, not '60.0 s'.
    if found < 0.9995:
        return f"{found * 1000:.0f} ms"
    if found < 59.95:
        return f"{found:.1f} s"
    minutes, seconds = divmod(round(found), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def human_bytes(value: object) -> str:
    """Return a size given in bytes with a binary unit, a dash for null."""
    found = number(value)
    if found is None:
        return MISSING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if found < 1024:
            return f"{found:.0f} B" if unit == "B" else f"{found:.1f} {unit}"
        found /= 1024
    return f"{found:.1f} TiB"


def plain(value: object) -> str:
    """Return any cell as text: no long tails of digits, a dash for null."""
    if value is None or (isinstance(value, float) and number(value) is None):
        return MISSING
    if isinstance(value, float):
        return f"{value:.4g}" if value != round(value) else f"{value:.0f}"
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def link(text: str, path: str) -> Markup:
    """Return a link to a file beside the page; `path` is relative, with '/'."""
    return Markup('<a href="{}">{}</a>').format(quote(path), text)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds the old bytes or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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

    Notes
    -----
    Each method returns the page, so calls can be chained. Strings are escaped;
    `markupsafe.Markup`, as `link` returns it, is the one way round that. Notices stand
    above everything else wherever in the code they were added.
    """

    def __init__(self, title: str, subtitle: str = "", *, footer: str = "") -> None:
        """Start an empty page."""
        self._head = {"title": title, "subtitle": subtitle, "footer": footer}
        self._notices: list[str] = []
        self._sections: list[tuple[str, list[Markup]]] = [("", [])]

    def _add(self, template: str, **values: object) -> "Page":
        """Append a rendered block to the current section."""
        block = _ENVIRONMENT.get_template(template).render(**values)
        self._sections[-1][1].append(Markup(block))
        return self

    def notice(self, text: str) -> "Page":
        """Add a warning that nobody can miss."""
        self._notices.append(text)
        return self

    def section(self, heading: str) -> "Page":
        """Start a section; later pieces belong to it."""
        self._sections.append((heading, []))
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
    ) -> "Page":
        """Add a part that is closed at first: a table, names and values, or text."""
        values: dict[str, object] = {"summary": summary, "kind": "pre"}
        if isinstance(content, pd.DataFrame):
            values["kind"] = "table"
            values |= _table(content, summary, formats, headers)
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
            **self._head, notices=self._notices, sections=sections, css=Markup(_CSS)
        )

    def write(self, path: Path) -> Path:
        """Write the page to `path` in one step and return `path`."""
        write_atomically(path, self.render().encode())
        return path


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


def _variables(dark: bool) -> str:
    """Return the theme as CSS variables."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in THEME.items())


_CSS = (
    ":root { color-scheme: light dark; --page: #f7f8fa; --warn: #fff4d6; "
    f"--warn-edge: #b97900; {_variables(False)} }}\n"
    "@media (prefers-color-scheme: dark) { :root { --page: #0f1216; --warn: #36290a; "
    f"--warn-edge: #e0a52e; {_variables(True)} }} }}"
    """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55
  system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere; -webkit-text-size-adjust: 100%; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: clamp(1.6rem, 4vw, 2.1rem); line-height: 1.2; margin: 0;
  letter-spacing: -.015em; text-wrap: balance; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0 0 .75rem; }
.lede { font-size: 1.125rem; color: var(--muted); margin: .75rem 0 0; max-width: 46rem;
  text-wrap: pretty; }
p, ul { margin: 0 0 1rem; max-width: 46rem; text-wrap: pretty; }
ul { padding-left: 1.2rem; }
li { margin-bottom: .4rem; }
a { color: var(--recovered); }
a:focus-visible, summary:focus-visible, .scroll:focus-visible {
  outline: 2px solid var(--recovered); outline-offset: 2px; }
section, .panel { background: var(--surface); border: 1px solid var(--grid);
  border-radius: 14px; padding: 1.5rem; margin-top: 1.25rem; }
section.bare { background: none; border: 0; padding: 0; }
section > :last-child, dd:last-child { margin-bottom: 0; }
.notice { background: var(--warn); border: 1px solid var(--warn-edge);
  border-left-width: 6px; border-radius: 10px; padding: .8rem 1rem; margin: 1.25rem 0 0;
  max-width: none; }
.notice strong { display: block; color: var(--warn-edge); font-size: .8rem;
  letter-spacing: .06em; text-transform: uppercase; }
.cards { display: grid; gap: .75rem; padding: 0; margin: 0; list-style: none;
  grid-template-columns: repeat(auto-fit, minmax(min(10.5rem, 46%), 1fr));
  max-width: none; }
.cards > div { background: var(--surface); border: 1px solid var(--grid);
  border-radius: 14px; padding: 1rem 1.1rem; }
.cards dt { color: var(--muted); font-size: .875rem; }
.cards .value { margin: .1rem 0; font-size: 1.65rem; line-height: 1.25;
  font-weight: 650; letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.cards .note { margin: 0; color: var(--muted); font-size: .8125rem; line-height: 1.4; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.25rem;
  margin: 0 0 1rem; }
.facts dt { color: var(--muted); }
.facts dd { margin: 0; }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { caption-side: top; text-align: left; color: var(--muted);
  padding-bottom: .5rem; }
caption span { position: sticky; left: 0; display: block;
  max-width: min(46rem, 100vw - 4.2rem); }
th, td { padding: .45rem .7rem; text-align: left; border-bottom: 1px solid var(--grid);
  vertical-align: top; }
thead th { font-weight: 600; color: var(--muted); vertical-align: bottom;
  line-height: 1.25; min-width: 4.2rem; }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--surface); }
tbody tr:last-child > * { border-bottom: 0; }
.number { text-align: right; }
td.number { white-space: nowrap; }
figure { margin: 0 0 1rem; }
figure svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif !important; }
figure .narrow { display: none; max-width: 30rem; }
figcaption { color: var(--muted); font-size: .875rem; margin-top: .5rem;
  max-width: 46rem; }
details { margin: 0 0 .75rem; }
summary { cursor: pointer; font-weight: 600; padding: .2rem 0; }
details[open] > summary { margin-bottom: .5rem; }
pre { background: var(--band); border-radius: 10px; padding: .9rem 1rem; margin: 0;
  font: .8125rem/1.55 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  overflow-x: auto; overflow-wrap: normal; }
footer { color: var(--muted); font-size: .8125rem; margin-top: 1.5rem; }
@media (max-width: 45rem) {
  main { padding: 1.5rem 1rem 3rem; }
  section { padding: 1.1rem .9rem; border-radius: 12px; }
  .cards > div { padding: .8rem .9rem; }
  .cards .value { font-size: 1.35rem; }
  .cards > div:last-child:nth-child(odd) { grid-column: 1 / -1; }
  .facts { grid-template-columns: fit-content(45%) 1fr; gap: .35rem .9rem; }
  figure .wide { display: none; }
  figure .narrow { display: block; }
}
@media print { body { background: none; } section { break-inside: avoid; } }
"""
)

_BLOCKS = {
    "text": "{% for line in paragraphs %}<p>{{ line }}</p>\n{% endfor %}",
    "bullets": "<ul>\n{% for item in items %}<li>{{ item }}</li>\n{% endfor %}</ul>\n",
    "cards": """<dl class="cards">
{% for card in cards %}
<div><dt>{{ card.label }}</dt><dd class="value">{{ card.value }}</dd>
{% if card.note %}<dd class="note">{{ card.note }}</dd>{% endif %}</div>
{% endfor %}
</dl>
""",
    "facts": """<dl class="facts">
{% for name, value in facts.items() %}
<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
""",
    "table": """
<div class="scroll" role="region" tabindex="0" aria-label="{{ caption }}">
<table><caption><span>{{ caption }}</span></caption>
<thead><tr>
{% for cell in heads %}
<th scope="col"{% if cell.numeric and not loop.first %} class="number"{% endif %}>
{{- cell.text }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in rows %}
<tr>
{% for cell in row %}
{% if loop.first %}
<th scope="row">{{ cell.text }}</th>
{% else %}
<td{% if cell.numeric %} class="number"{% endif %}>{{ cell.text }}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
""",
    "figure": """<figure role="group" aria-label="{{ alt }}">
{% for width, drawing in drawings.items() %}
<div class="{{ width }}" role="img" aria-label="{{ alt }}">{{ drawing }}</div>
{% endfor %}
<figcaption>{{ caption }}</figcaption>
</figure>
""",
    "details": """<details><summary>{{ summary }}</summary>
{% if kind == "pre" %}<pre tabindex="0">{{ content }}</pre>
{% else %}{% include kind %}{% endif %}
</details>
""",
    "page": """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>
{{ css }}</style>
</head>
<body>
<main>
<header>
<h1>{{ title }}</h1>
{% if subtitle %}<p class="lede">{{ subtitle }}</p>{% endif %}
{% for notice in notices %}
<p class="notice" role="note"><strong>Please note</strong> {{ notice }}</p>
{% endfor %}
</header>
{% for heading, blocks in sections %}
<section{% if not heading %} class="bare"{% endif %}>
{% if heading %}<h2>{{ heading }}</h2>{% endif %}
{% for block in blocks %}{{ block }}{% endfor %}
</section>
{% endfor %}
{% if footer %}<footer>{{ footer }}</footer>{% endif %}
</main>
</body>
</html>
""",
}

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.DictLoader(_BLOCKS),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
