// Sets the theme that the reader chose before the page is drawn. Without a choice the system's holds.
try {
  const theme = localStorage.getItem("kapsel-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* a browser that keeps nothing */ }
