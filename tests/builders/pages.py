"""What a browser measures on a page."""

# Text on the page, in CSS pixels: the smallest outside figures; in the figures that are
# shown, the smallest as drawn, and any that leaves its drawing.
MEASURE = """() => {
  const body = [], drawn = [], outside = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.getClientRects().length) continue;
    const size = parseFloat(getComputedStyle(element).fontSize);
    const svg = element.closest('svg');
    if (!svg) { body.push(size); continue; }
    drawn.push(size * svg.getScreenCTM().a);
    const text = element.getBoundingClientRect(), box = svg.getBoundingClientRect();
    if (text.left < box.left - 1 || text.right > box.right + 1
        || text.top < box.top - 1 || text.bottom > box.bottom + 1)
      outside.push(element.textContent);
  }
  const figures = [...document.querySelectorAll('figure')].map(f =>
    [...f.querySelectorAll('svg')].map(s => s.getBoundingClientRect())
      .filter(r => r.width > 200 && r.height > 60).length);
  return {body: Math.min(...body), drawn: Math.min(...drawn), outside, figures,
          wide: document.documentElement.scrollWidth, window: innerWidth};
}"""
