// Signing in: the token goes to the daemon once, which answers with a cookie that no script can read.

const WRONG = "That is not the token. It is the value of http.token in the daemon's configuration.";

async function signIn(submitted) {
  submitted.preventDefault();
  const button = submitted.submitter;
  const error = byId("login-error");
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  say(error, "");
  try {
    await ask("/login", { token: byId("token").value });
    location.assign("/");
  } catch (refusal) {
    say(error, refusal.status === 403 ? WRONG : `Signing in failed: ${refusal.message}.`);
    byId("token").select();
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

byId("login").onsubmit = signIn;
