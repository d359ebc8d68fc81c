// Keys, copying, and the token behind the # of a sign-in link. Everything works without it but these.
"use strict";
(() => {
  const form = document.getElementById("sign-in");
  if (form && location.hash.length > 16) {
    form.elements.token.value = location.hash.slice(1);
    history.replaceState(null, "", location.pathname);
    form.requestSubmit();
    return;
  }
  const rows = () => [...document.querySelectorAll(".rows tbody tr")];
  const step = (by) => {
    const all = rows();
    if (!all.length) return;
    const at = all.findIndex((row) => row.classList.contains("at"));
    all.forEach((row) => row.classList.remove("at"));
    const row = all[Math.min(all.length - 1, Math.max(0, at + by))];
    row.classList.add("at");
    row.scrollIntoView({ block: "nearest" });
  };
  const keys = {
    "/": () => document.querySelector(".search input")?.focus(),
    j: () => step(1),
    k: () => step(-1),
    Enter: () => document.querySelector(".rows tr.at a")?.click(),
    "?": () => document.getElementById("help")?.showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, button, a, dialog")) return;
    const act = keys[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });
  document.addEventListener("click", (event) => {
    const place = event.target.closest("[data-copy]");
    if (!place || !navigator.clipboard) return;
    navigator.clipboard.writeText(place.dataset.copy).then(() => {
      place.classList.add("copied");
      setTimeout(() => place.classList.remove("copied"), 700);
    });
  });
})();
