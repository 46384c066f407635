// The connection to the console: one stream of events, opened again when it is lost.

const silence = 16000; // ms: three beats of the server
const rest = 15000; // ms that a page nobody sees keeps its stream: browsers have few connections

// token is kept for this tab only, and out of the address bar and the history.
const kept = 'baize-token';
export function takeToken() {
  const m = /(?:^#|&)token=([^&]+)/.exec(location.hash);
  if (!m) return;
  sessionStorage.setItem(kept, decodeURIComponent(m[1]));
  history.replaceState(null, '', location.pathname + '#/');
}
export function setToken(t) { sessionStorage.setItem(kept, t); }

function headers() {
  const t = sessionStorage.getItem(kept);
  return t ? { Authorization: 'Bearer ' + t } : {};
}

// ask gets JSON; an error has the console's own words.
export async function ask(path) {
  const r = await fetch('api/v1/' + path, { headers: headers(), cache: 'no-store' });
  const body = await r.json();
  if (!r.ok) throw new Error(body.error);
  return body;
}

// follow calls on(section, value) for what comes, and said(state, text) with 'live',
// 'lost' or 'denied'. A denied one waits until again() is called.
export function follow(on, said) {
  let again = () => {};
  const knock = () => new Promise((resolve) => { again = resolve; });
  (async () => {
    for (let wait = 500; ; wait = Math.min(wait * 2, 5000)) {
      await seen();
      const stop = new AbortController();
      let resting;
      const hidden = () => {
        clearTimeout(resting);
        if (document.hidden) resting = setTimeout(() => stop.abort(), rest);
      };
      document.addEventListener('visibilitychange', hidden);
      let timer;
      const alive = () => { clearTimeout(timer); timer = setTimeout(() => stop.abort(), silence); };
      let why = 'the console does not answer';
      try {
        alive();
        const r = await fetch('api/v1/stream', { headers: headers(), signal: stop.signal, cache: 'no-store' });
        if (r.status === 401) {
          clearTimeout(timer);
          document.removeEventListener('visibilitychange', hidden);
          said('denied', headers().Authorization ? 'That token is not the right one.' : '');
          await knock();
          wait = 250;
          continue;
        }
        if (!r.ok) throw new Error((await r.json()).error);
        await read(r.body, (name, data) => {
          wait = 250;
          alive();
          said('live');
          if (name !== 'beat') on(name, JSON.parse(data));
        });
        why = 'the console ended the connection';
      } catch (e) {
        if (e.name !== 'AbortError' && !(e instanceof TypeError)) why = e.message;
      }
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', hidden);
      if (document.hidden) continue;
      said('lost', why);
      await Promise.race([knock(), new Promise((resolve) => { setTimeout(resolve, wait); })]);
    }
  })();
  addEventListener('online', () => again());
  return { again: () => again() };
}

// seen waits until somebody looks at the page.
function seen() {
  if (!document.hidden) return null;
  return new Promise((resolve) => {
    document.addEventListener('visibilitychange', function look() {
      if (document.hidden) return;
      document.removeEventListener('visibilitychange', look);
      resolve();
    });
  });
}

// read parses server-sent events: fields name and data, a line each.
async function read(body, event) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) {
      let name = 'message';
      let data = '';
      for (const line of text.slice(0, end).split('\n')) {
        if (line.startsWith('event: ')) name = line.slice(7);
        else if (line.startsWith('data: ')) data += line.slice(6);
      }
      event(name, data);
    }
  }
}
