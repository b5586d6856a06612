// Pages opened from a folder (file://) may not fetch: the search index comes as a script there.
// And what scrolls sideways can be reached and moved from the keyboard.
(() => {
  if (location.protocol === "file:") {
    window.fetch = (address) => new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = address.replace(/search\.json$/, "site_libs/search-index.js");
      script.onload = () => resolve({ json: async () => window.SEARCH_INDEX });
      script.onerror = reject;
      document.head.append(script);
    });
  }
  const reachable = () => {
    document.querySelectorAll("main pre, main .katex-display, main .sd-table").forEach((box) => {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    });
  };
  window.addEventListener("load", reachable);
  window.addEventListener("resize", reachable);
})();
