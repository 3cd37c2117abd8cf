const buttons = document.querySelectorAll("button[data-show]");
const panels = document.querySelectorAll("details[data-decision]");
for (const button of buttons) {
  button.addEventListener("click", () => {
    const wanted = button.dataset.show;
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    for (const panel of panels) panel.hidden = wanted !== "all" && panel.dataset.decision !== wanted;
  });
}
