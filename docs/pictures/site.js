// The search has a name for screen readers; what scrolls sideways can be reached and scrolled by keys.
document$.subscribe(() => requestAnimationFrame(() => {
  for (const part of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) {
    part.tabIndex = 0;
  }
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
}));
