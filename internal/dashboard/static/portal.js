// The portal: its look, which the link may choose, and its entry.
"use strict";

// look applies a theme and an accent colour. Both come from the link's own query and are checked.
(() => {
  let kept = {};
  try { kept = JSON.parse(sessionStorage.getItem("kapsel-portal-look") || "{}"); } catch { /* nothing is kept */ }
  const asked = new URLSearchParams(location.search);
  if (asked.has("theme")) kept.theme = asked.get("theme");
  if (asked.has("accent")) kept.accent = asked.get("accent");
  try { sessionStorage.setItem("kapsel-portal-look", JSON.stringify(kept)); } catch { /* nothing is kept */ }
  const root = document.documentElement;
  if (kept.theme === "light" || kept.theme === "dark") root.dataset.theme = kept.theme;
  if (/^[0-9a-f]{6}$/i.test(kept.accent || "")) root.style.setProperty("--accent", "#" + kept.accent);
})();

document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("open");
  if (!form) return;
  const token = location.hash.slice(1);
  history.replaceState(null, "", location.pathname + location.search); // the token is worth nothing twice
  if (!token) {
    document.getElementById("no-token").hidden = false;
    return;
  }
  form.elements.token.value = token;
  form.submit();
});
