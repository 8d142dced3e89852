// Signing in: the token goes to the daemon once, which answers with a cookie that no script can read.

const WRONG = "Wrong token. Enter the value of http.token from the daemon's configuration.";

async function signIn(submitted) {
  submitted.preventDefault();
  const button = submitted.submitter;
  const error = byId("login-error");
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  setText(error, "");
  try {
    await request("/login", { token: byId("token").value });
    location.assign("/");
  } catch (refusal) {
    setText(error, refusal.status === 403 ? WRONG : `Signing in failed: ${refusal.message}.`);
    byId("token").select();
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

byId("login").onsubmit = signIn;
