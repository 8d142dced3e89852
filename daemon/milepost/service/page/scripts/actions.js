// Actions: what the daemon does when a person presses a button.

/**
 * Have the daemon act, and show the outcome: `onDone` takes its answer, `onError` the words for a failure. Return whether
 * the daemon has accepted the action.
 */
async function act(button, path, body, { onDone, onError = (words) => toast("stopped", words), deadLetters = false }) {
  if (button.getAttribute("aria-disabled") === "true") return false;
  switchOff(button, true);
  try {
    onDone(await request(path, body));
    return true;
  } catch (error) {
    const isUnknown = error.status === 0; // the daemon may have acted, and its answer be lost
    onError(isUnknown ? `${capitalized(error.message)}; it may take effect all the same` : `Action failed: ${error.message}`);
    return false;
  } finally {
    switchOff(button, false);
    refreshSoon({ deadLetters, isUrgent: true });
  }
}
