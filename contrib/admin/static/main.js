// The console: asks the server it came from, and shows what it says.

import { Api, ApiError } from "./api.js";
import { ClusterPage } from "./cluster.js";
import { ask } from "./dialog.js";
import { byId, mark, say } from "./dom.js";
import { Faults } from "./faults.js";
import { Connection, repeat } from "./feed.js";
import { KeysPage } from "./keys.js";
import { LogPage } from "./log.js";
import { wordsOf } from "./words.js";

const VIEWS = ["cluster", "log", "keys"];
const WAIT = 20;

const api = new Api(new URL("../", document.baseURI));
const cluster = new ClusterPage(api);
const pages = { cluster, log: new LogPage(api), keys: new KeysPage(api) };
const faults = new Faults(api);

// --- which page is shown ---------------------------------------------------------

let view = null;

function show() {
  const wanted = location.hash.slice(1);
  if (!VIEWS.includes(wanted) && view !== null) return;
  view = VIEWS.includes(wanted) ? wanted : "cluster";
  for (const page of document.querySelectorAll("[data-page]")) page.hidden = page.id !== view;
  for (const link of document.querySelectorAll("[data-view]")) {
    mark(link, "aria-current", link.dataset.view === view ? "page" : null);
  }
  pages[view].open?.();
}

window.addEventListener("hashchange", () => {
  show();
  window.scrollTo(0, 0);
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});

// --- is anybody there? -----------------------------------------------------------

const connection = new Connection(
  () => api.get("api/v1/status", { patience: 4000 }),
  (error, seconds) => {
    byId("banner").hidden = error === null;
    document.body.classList.toggle("stale", error !== null);
    if (error === null) {
      pages[view].open?.();
      return;
    }
    say(
      byId("banner-text"),
      `The server at ${location.host} cannot be reached: ${error.message}. Trying again in ${seconds} s.`,
    );
  },
);
byId("retry").addEventListener("click", () => connection.hurry());

// --- who asks? -------------------------------------------------------------------

let loggingIn = null;

/** Ask who it is, once for all that wait for it. */
function logIn() {
  loggingIn ??= new Promise((resolve) => {
    ask({
      title: "Log in",
      text: "This server wants to know who you are. It is forgotten when this page is closed.",
      fields: [
        { name: "user", label: "User", optional: true },
        { name: "password", label: "Password", type: "password", optional: true },
        { name: "token", label: "Or a token", type: "password", optional: true },
      ],
      confirm: "Log in",
      mustAnswer: true,
      work: async ({ user, password, token }) => {
        if (token) api.logInWithToken(token);
        else api.logIn(user, password);
        await api.get("api/v1/status");
        loggingIn = null;
        resolve();
        return "You are logged in";
      },
    });
  });
  return loggingIn;
}

/** Return who to give an API's error to: 401 is for us, the rest for *rest*. */
function unless401(rest = () => undefined) {
  return (error) => (error.status === 401 ? logIn() : rest(error));
}

/** Ask for *path* again and again. */
function feed(path, answered, failed, pause) {
  repeat(connection, () => api.get(path), answered, unless401(failed), pause);
}

// --- what is asked for -----------------------------------------------------------

let asked = "this server";

function note(id, text) {
  say(byId(id), text);
  byId(id).hidden = !text;
}

feed(
  "api/v1/status",
  (status) => {
    say(byId("cluster-name"), status.cluster);
    asked = status.server;
    say(byId("origin"), `asked at ${asked}`);
    document.title = `${status.cluster} - Raft console`;
  },
  undefined,
  5000,
);

feed(
  "api/v1/members",
  (census) => {
    note("members-note", "");
    cluster.count(census);
  },
  (error) => note("members-note", error.message),
);

feed("api/v1/peers", ({ peers }) => cluster.follow(peers), () => cluster.follow([]));

feed("api/v1/latency", ({ latencies }) => cluster.took(latencies), undefined, 2000);

// Of a server that began anew, the numbers begin anew, too.
let run = null;
let seen = 0;
repeat(
  connection,
  () => api.get(`api/v1/events?after=${seen}&wait=${seen ? WAIT : 0}`, { patience: 1000 * (WAIT + 10) }),
  (answer) => {
    if (run !== null && answer.run !== run) {
      cluster.forget();
      seen = 0;
    } else {
      cluster.happened(answer.events.map((event) => wordsOf(event, asked)));
      seen = answer.last;
    }
    run = answer.run;
  },
  unless401(),
  100,
);

feed("api/v1/faults", (offered) => faults.draw(offered), (error) =>
  error instanceof ApiError && error.status === 404 ? "stop" : undefined,
);

repeat(connection, () => pages.keys.exists(), () => undefined, unless401((error) => (error.status === 404 ? "stop" : undefined)), 30000);

setInterval(() => {
  if (connection.isUp && !document.hidden) pages[view].tick?.();
}, 1000);

show();
