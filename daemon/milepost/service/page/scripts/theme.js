// Light or dark: as the system is, unless the reader has chosen one.

const THEMES = ["system", "light", "dark"];
const THEME_KEY = "milepost-theme";

function chosenTheme() {
  try {
    return THEMES.includes(localStorage[THEME_KEY]) ? localStorage[THEME_KEY] : "system";
  } catch {
    return "system"; // the browser has no storage
  }
}

function showTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  setText(byId("theme"), `Theme: ${theme}`);
}

function chooseNextTheme() {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % THEMES.length];
  showTheme(next);
  try {
    localStorage[THEME_KEY] = next;
  } catch { /* it lasts as long as the page is open */ }
}
