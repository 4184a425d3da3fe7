// Drives @cloudbase/js-sdk's browser build in jsdom against a node. Arguments: the directory that has node_modules,
// and host:port of the node. Prints "all well" at the end; any failed expectation is an exception.
const { createRequire } = require('node:module');
const assert = require('node:assert/strict');
const [, , packages, host] = process.argv;
const need = createRequire(`${packages}/package.json`);

const { JSDOM } = need('jsdom');
const { window } = new JSDOM('<!doctype html><body></body>', { url: `http://${host}/`, pretendToBeVisual: true });
const give = (name, value) => Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
give('window', window);
for (const name of ['document', 'navigator', 'location', 'localStorage', 'sessionStorage', 'XMLHttpRequest', 'FormData',
  'Blob', 'File', 'Event', 'CustomEvent', 'HTMLElement', 'WebSocket']) give(name, window[name]);
window.fetch = fetch;
window.AbortController = AbortController;

const cloudbase = require(`${packages}/node_modules/@cloudbase/js-sdk/dist/index.cjs.js`);
const sdk = cloudbase.default ?? cloudbase;

async function main() {
  const app = sdk.init({ env: 'hotel', auth: { detectSessionInUrl: false } });
  app.registerHost(host);
  const auth = app.auth({ persistence: 'local' });

  // Anonymous login, and who that is.
  const anonymous = await auth.signInAnonymously();
  assert.equal(anonymous.error, null, JSON.stringify(anonymous.error));
  const first = (await auth.getUser()).data.user;
  assert.ok(first.id, JSON.stringify(first));

  // A function.
  const called = await app.callFunction({ name: 'greet', data: 'echo {"hello":"you"}' }).catch((error) => error);
  // The SDK sends data as JSON, so this text arrives in quotes and the fixture refuses its first word.
  assert.equal(called.code, 'FUNCTION_PARAM_INVALID', JSON.stringify(called));

  // Documents.
  const db = app.database();
  const stays = db.collection('stays');
  const added = await stays.add({ room: 7, when: db.serverDate(), at: new Date(1700000000000), tags: ['a', 'b'], deep: { er: 1 } });
  assert.equal(typeof added.id, 'string', JSON.stringify(added));
  const got = await stays.doc(added.id).get();
  assert.equal(got.data.length, 1, JSON.stringify(got));
  assert.equal(got.data[0].room, 7);
  assert.equal(+new Date(got.data[0].at), 1700000000000);
  assert.ok(Math.abs(Date.now() - new Date(got.data[0].when)) < 60000);
  assert.equal((await stays.add([{ room: 8 }, { room: 9 }])).ids.length, 2);
  const _ = db.command;
  assert.equal((await stays.where({ room: _.gt(7) }).count()).total, 2);
  const sorted = await stays.where({ room: _.gte(7) }).orderBy('room', 'desc').skip(1).limit(1).field({ room: true }).get();
  assert.deepEqual(sorted.data.map((d) => d.room), [8]);
  assert.equal((await stays.where({ deep: { er: 1 } }).get()).data.length, 1);
  assert.equal((await stays.doc(added.id).update({ room: _.inc(10), 'deep.er': 2, tags: _.push(['c']) })).updated, 1);
  const changed = (await stays.doc(added.id).get()).data[0];
  assert.deepEqual([changed.room, changed.deep.er, changed.tags], [17, 2, ['a', 'b', 'c']]);
  assert.equal((await stays.where({ room: _.lt(10) }).update({ seen: true })).updated, 2);
  assert.equal((await stays.doc(added.id).set({ only: 1 })).updated, 1);
  assert.equal((await stays.doc('fresh').set({ only: 2 })).upsertedId, 'fresh');
  assert.equal((await stays.doc('fresh').remove()).deleted, 1);
  assert.equal((await stays.where({ seen: true }).remove()).deleted, 2);

  // Files.
  const content = 'a photograph, more or less';
  const up = await app.uploadFile({ cloudPath: 'photos/one two.jpg', filePath: new window.Blob([content], { type: 'image/jpeg' }) });
  assert.equal(up.fileID, 'cloud://hotel.files/photos/one two.jpg', JSON.stringify(up));
  const urls = await app.getTempFileURL({ fileList: [up.fileID] });
  assert.equal(urls.fileList[0].code, 'SUCCESS', JSON.stringify(urls));
  const photo = await fetch(urls.fileList[0].tempFileURL);
  assert.deepEqual([photo.status, await photo.text(), photo.headers.get('content-type')], [200, content, 'image/jpeg']);
  const gone = await app.deleteFile({ fileList: [up.fileID] });
  assert.equal(gone.fileList[0].code, 'SUCCESS', JSON.stringify(gone));
  assert.equal((await fetch(urls.fileList[0].tempFileURL)).status, 404);

  // Username and password; another user sees other documents.
  const credentials = { username: 'guest', password: 'a good password' };
  await app.auth().oauthInstance.authApi.signUp(credentials);
  await auth.signOut();
  const wrong = await auth.signInWithPassword({ ...credentials, password: 'a bad password' });
  assert.ok(wrong.error, 'a wrong password is refused');
  const right = await auth.signInWithPassword(credentials);
  assert.equal(right.error, null, JSON.stringify(right.error));
  const second = (await auth.getUser()).data.user;
  assert.ok(second.id && second.id !== first.id);
  assert.equal((await stays.doc(added.id).get()).data.length, 0);

  // Refresh, by hand and by a token that the node no longer takes.
  const before = (await auth.getSession()).data.session.access_token;
  const refreshed = await auth.refreshSession();
  assert.equal(refreshed.error, null, JSON.stringify(refreshed.error));
  assert.notEqual((await auth.getSession()).data.session.access_token, before);
  await auth.signOut();
  console.log('all well');
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
