// What is asked for again and again, and what happens when nobody answers.

import { ApiError, Unreachable } from "./api.js";

const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 15000;

const sleep = (milliseconds) =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));

function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
  });
}

/**
 * Knows whether the server answers; everything else waits here while not.
 *
 * *shown* is called with null when it does, and with the error and the seconds
 * until the next attempt when it does not.
 */
export class Connection {
  #pause = FIRST_PAUSE;
  #isUp = true;
  #waiting = [];
  #wake = null;

  constructor(probe, shown) {
    this.probe = probe;
    this.shown = shown;
  }

  get isUp() {
    return this.#isUp;
  }

  /** Wait until the server answers and somebody looks. */
  async ready() {
    await visible();
    if (!this.#isUp) await new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Begin to ask the server whether it is there; others wait from now on. */
  lost(error) {
    if (!this.#isUp) return;
    this.#isUp = false;
    this.#recover(error);
  }

  /** Do not wait for the next attempt. */
  hurry() {
    this.#wake?.();
  }

  async #recover(error) {
    while (!this.#isUp) {
      await this.#countDown(error);
      try {
        await this.probe();
        this.#isUp = true;
      } catch (failure) {
        // An error that the server sends is an answer.
        this.#isUp = failure instanceof ApiError && failure.status < 502;
        error = failure;
        this.#pause = Math.min(2 * this.#pause, LONGEST_PAUSE);
      }
    }
    this.#pause = FIRST_PAUSE;
    this.shown(null);
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  async #countDown(error) {
    let isHurried = false;
    const hurried = new Promise((resolve) => {
      this.#wake = () => resolve((isHurried = true));
    });
    for (let left = this.#pause; left > 0 && !isHurried; left -= 1000) {
      this.shown(error, Math.ceil(left / 1000));
      await Promise.race([sleep(Math.min(left, 1000)), hurried]);
    }
    this.#wake = null;
  }
}

/**
 * Ask *question* for ever, and give *answered* what it returns.
 *
 * *failed* gets the errors that the server sends; whoever wants it to stop
 * throws.  A question that waits by itself has no *pause*.
 */
export async function repeat(connection, question, answered, failed, pause = 1000) {
  for (;;) {
    await connection.ready();
    let rest = pause;
    try {
      answered(await question());
    } catch (error) {
      if (error instanceof Unreachable) connection.lost(error);
      else if (error instanceof ApiError) {
        rest = Math.max(pause, 2000);
        if ((await failed(error)) === "stop") return;
      } else throw error;
    }
    await sleep(rest);
  }
}
