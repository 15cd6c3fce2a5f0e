"use strict";
// Nothing here is needed to read the page: it opens, closes and copies.
for (const button of document.querySelectorAll("button[hidden]")) button.hidden = false;

for (const button of document.querySelectorAll("[data-open]")) {
  button.addEventListener("click", () => {
    const open = button.dataset.open === "true";
    for (const each of document.querySelectorAll("main details")) each.open = open;
  });
}

function show() {
  const id = decodeURIComponent(location.hash.slice(1));
  const found = id && document.getElementById(id);
  if (found && found.tagName === "DETAILS") {
    found.open = true;
    found.scrollIntoView();
  }
}
addEventListener("hashchange", show);
show();

let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const each of closed) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of closed) each.open = false;
});

// The clipboard of a page opened from a file may be refused: then the old way, then selecting.
async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return document.execCommand("copy");
  }
}
for (const button of document.querySelectorAll(".copy")) {
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", async () => {
    const done = await copy(button.parentElement.querySelector("code"));
    button.textContent = done ? "Copied" : "Press Ctrl-C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
