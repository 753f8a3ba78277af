"""The look of our pages: CSS, and the Jinja templates of their pieces.

Python strings, because Flower's app bundle carries only ``.py`` files.
"""

from fedneg.reports.html.figures import THEME
from fedneg.reports.html.filter import FILTER_BLOCK, FILTER_CSS


def variables(dark: bool) -> str:
    """Return the theme as CSS variables."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in THEME.items())


CSS = (
    ":root { color-scheme: light dark; --page: #f7f8fa; --warn: #fff4d6; "
    "--good: #006b52; --bad: #b3201a; --open: #4a5461; "
    "--good-tint: #e4f4ee; --bad-tint: #fdeae8; --open-tint: #eef1f4; "
    f"--warn-edge: #b97900; {variables(False)} }}\n"
    "@media (prefers-color-scheme: dark) { :root { --page: #0f1216; --warn: #36290a; "
    "--good: #4fcfa5; --bad: #ff8f85; --open: #b3bfcc; "
    "--good-tint: #0f2a22; --bad-tint: #3a1614; --open-tint: #20262e; "
    f"--warn-edge: #e0a52e; {variables(True)} }} }}"
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
.verdict { display: grid; grid-template-columns: auto 1fr; gap: .1rem 1.1rem;
  align-items: start; border: 2px solid var(--edge); border-left-width: 10px;
  border-radius: 14px; background: var(--tint); padding: 1.1rem 1.25rem;
  margin-bottom: .75rem; }
.good { --edge: var(--good); --tint: var(--good-tint); }
.bad { --edge: var(--bad); --tint: var(--bad-tint); border-style: double;
  border-width: 5px; }
.open { --edge: var(--open); --tint: var(--open-tint); border-style: dashed;
  border-width: 3px; }
.verdict svg { width: 3.2rem; height: 3.2rem; color: var(--edge); }
.verdict .outcome { margin: 0; font-size: 1.3rem; line-height: 1.3; font-weight: 650; }
.verdict .outcome b { color: var(--edge); }
.verdict p { margin: .3rem 0 0; max-width: 46rem; }
.verdict .limit { font-size: .875rem; }
.badge { white-space: nowrap; font-weight: 600; color: var(--edge); border: 0; }
.prose { min-width: 13rem; }
small { display: block; font-size: .8125rem; font-weight: 400; color: var(--muted); }
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
  .verdict { padding: .9rem; column-gap: .8rem; }
  .verdict svg { width: 2rem; height: 2rem; }
  .cards .value { font-size: 1.35rem; }
  .cards > div:last-child:nth-child(odd) { grid-column: 1 / -1; }
  .facts { grid-template-columns: fit-content(45%) 1fr; gap: .35rem .9rem; }
  figure .wide { display: none; }
  figure .narrow { display: block; }
}
@media print { body { background: none; } section { break-inside: avoid; } }
""" + FILTER_CSS
)

BLOCKS = {
    "text": "{% for line in paragraphs %}<p>{{ line }}</p>\n{% endfor %}",
    "bullets": "<ul>\n{% for item in items %}<li>{{ item }}</li>\n{% endfor %}</ul>\n",
    "verdict": """<div class="verdict {{ kind }}" role="region" aria-label="Verdict">
<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2"
 stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false">
{% if kind == "good" %}
<circle cx="12" cy="12" r="10"/><path d="M7.5 12.5l3 3 6-7"/>
{% elif kind == "bad" %}
<path d="M8 2h8l6 6v8l-6 6H8l-6-6V8z"/><path d="M8.5 8.5l7 7M15.5 8.5l-7 7"/>
{% else %}
<path d="M12 1.5L22.5 12 12 22.5 1.5 12z" stroke-dasharray="3 2.6"/>
<path d="M9.6 9.6a2.4 2.4 0 1 1 3.6 2.1c-.8.5-1.2.9-1.2 1.9M12 16.6v.01"/>
{% endif %}
</svg>
<div><p class="outcome">{{ label }}: <b>{{ outcome }}</b></p>
{% for line in lines %}
<p{% if loop.last %} class="limit"{% endif %}>{{ line }}</p>
{% endfor %}
</div></div>
""",
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
<tr{% if keys is defined %} data-keys="{{ keys[loop.index0] }}"{% endif %}>
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
    "filtered": FILTER_BLOCK,
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
