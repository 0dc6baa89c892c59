// One entry of the history for each action. Streamlit makes none where a widget changes the address, and several where one
// button changes several widgets: here the first change of the address after an action makes an entry, those after it change it.
(() => {
  const push = history.pushState.bind(history);
  const replace = history.replaceState.bind(history);
  let acted = false;
  const write = (state, title, address) => {
    const moved = address != null && new URL(address, location.href).href !== location.href;
    (moved && acted ? push : replace)(state, title, address);
    if (moved) acted = false;
  };
  history.pushState = write;
  history.replaceState = write;
  for (const kind of ["pointerdown", "keydown"]) {
    addEventListener(kind, () => { acted = true; }, { capture: true, passive: true });
  }
  addEventListener("popstate", () => { acted = false; }, { capture: true });
})();
