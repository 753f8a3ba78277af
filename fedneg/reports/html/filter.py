"""Choose and sort a table's rows in the page: form and script, with nothing to load.

Without JavaScript the form stays hidden and the table whole.
"""

FILTER_CSS = """
.filters { display: grid; gap: .6rem .9rem; margin: 0 0 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(11rem, 45%), 1fr)); }
.filters[hidden] { display: none; }
.filters label { display: block; font-size: .875rem; color: var(--muted);
  min-width: 0; }
.filters select, .filters input { display: block; width: 100%; margin-top: .15rem;
  font: inherit; color: var(--ink); background: var(--surface); padding: .3rem .4rem;
  border: 1px solid var(--muted); border-radius: 6px; }
.filters button { font: inherit; color: var(--ink); background: var(--band);
  border: 1px solid var(--muted); border-radius: 6px; padding: .3rem .8rem;
  align-self: end; cursor: pointer; }
.filters output { align-self: end; font-size: .875rem; padding: .35rem 0; }
.filters :focus-visible, th button:focus-visible {
  outline: 2px solid var(--recovered); outline-offset: 2px; }
.filtered .scroll { max-height: 80vh; overflow: auto; }
.filtered thead th { position: sticky; top: 0; background: var(--surface); z-index: 1; }
.filtered thead th:first-child { left: 0; z-index: 2; }
.filtered td:nth-child(3), .filtered td:nth-child(5) { min-width: 13rem; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0;
  text-align: inherit; cursor: pointer; }
th[aria-sort="ascending"] button::after { content: " \\2191"; }
th[aria-sort="descending"] button::after { content: " \\2193"; }
@media print { .filters { display: none; }
  .filtered .scroll { max-height: none; } }
"""

FILTER_BLOCK = """
<div class="filtered">
<form class="filters" hidden>
{% for name, values in choices.items() %}
<label>{{ name }}<select aria-label="{{ name }}"><option value="">all</option>
{% for value in values %}<option value="{{ value }}">{{ value }}</option>
{% endfor %}</select></label>
{% endfor %}
<label>{{ search }}
<input type="search" aria-label="{{ search }}" autocomplete="off"></label>
<button type="reset">Show all</button>
<output aria-live="polite"></output>
</form>
{% include "table" %}
<script>
{{ script }}</script>
</div>
"""

# A row's data-keys holds, for each select, the list of values that it answers to.
FILTER_SCRIPT = """(() => {
  const root = document.currentScript.parentElement;
  const form = root.querySelector('form'), body = root.querySelector('tbody');
  const rows = [...body.rows], heads = [...root.querySelectorAll('thead th')];
  const selects = [...form.querySelectorAll('select')];
  const text = form.querySelector('input'), said = form.querySelector('output');
  const show = () => {
    const word = text.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const keys = JSON.parse(row.dataset.keys);
      row.hidden = !(row.cells[0].textContent.toLowerCase().includes(word) &&
        selects.every((s, n) => !s.value || keys[n].includes(s.value)));
      shown += !row.hidden;
    }
    said.textContent = `${shown} of ${rows.length} rows`;
  };
  const value = (row, column) => {
    const words = row.cells[column].textContent.trim();
    const found = parseFloat(words.replace('\\u2212', '-').replaceAll(',', ''));
    return Number.isNaN(found) ? words : found;
  };
  const compare = (a, b) => typeof a === typeof b
    ? (typeof a === 'number' ? a - b : a < b ? -1 : a > b ? 1 : 0) : 0;
  const sort = column => {
    const down = heads[column].ariaSort === 'ascending';
    heads.forEach(head => head.removeAttribute('aria-sort'));
    heads[column].setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const order = heads[column].classList.contains('number')
      ? x => typeof x === 'number' : () => true;
    rows.map(row => [value(row, column), row])
      .sort(([a], [b]) => order(b) - order(a) || (down ? compare(b, a) : compare(a, b)))
      .forEach(([, row]) => body.append(row));
  };
  heads.forEach((head, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    button.addEventListener('click', () => sort(column));
    head.append(button);
  });
  form.addEventListener('input', show);
  form.addEventListener('reset', () => setTimeout(show));
  form.addEventListener('submit', event => event.preventDefault());
  form.hidden = false;
  show();
})();
"""
