// What the server says: facts of the slide, parts of what was found on it. Addresses are relative to the page's.

export class ServerError extends Error {}

const GONE = "The viewer does not answer any more. If it was stopped, run `segkit view` again.";

async function answerOf(address, signal) {
  let answer;
  try {
    answer = await fetch(address, {signal});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(GONE);
  }
  if (answer.status === 503) throw new ServerError(GONE);
  if (!answer.ok) throw new ServerError(`${address}: ${await answer.text()}`);
  return answer;
}

export async function json(address, signal) {
  return (await answerOf(address, signal)).json();
}

export async function bytes(address, signal) {
  return (await answerOf(address, signal)).arrayBuffer();
}

export const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));
