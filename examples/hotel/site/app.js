// The front desk: logs the visitor in without asking, checks in, lists the visitor's own stays.

const COLLECTION = '/v1/database/instances/(default)/databases/(default)/collections/stays/documents';
const form = document.getElementById('form');
const status = document.getElementById('status');

/** A response's JSON, or an error with the platform's message and request id. */
async function json(response) {
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const error = new Error(`${body.message ?? response.statusText} (${response.headers.get('x-request-id') ?? response.status})`);
  error.status = response.status;
  throw error;
}

async function login(path, body) {
  const credentials = await json(await fetch(path, { method: 'POST', body: JSON.stringify(body) }));
  credentials.until = Date.now() + (credentials.expires_in - 30) * 1000;
  localStorage.setItem('credentials', JSON.stringify(credentials));
  return credentials;
}

/** An access token: the one we have, a refreshed one, or that of a new anonymous visitor. */
async function token() {
  let credentials = JSON.parse(localStorage.getItem('credentials') ?? 'null');
  if (credentials && Date.now() > credentials.until) {
    const grant = { grant_type: 'refresh_token', refresh_token: credentials.refresh_token };
    credentials = await login('/auth/v1/token', grant).catch(() => null);
  }
  credentials ??= await login('/auth/v1/signin/anonymously', {});
  return credentials.access_token;
}

/** Fetches as the visitor; once more as a new one when the node no longer knows the old. */
async function as_visitor(path, options = {}) {
  for (const last of [false, true]) {
    const headers = { ...options.headers, authorization: `Bearer ${await token()}` };
    try {
      return await json(await fetch(path, { ...options, headers }));
    } catch (error) {
      if (last || error.status !== 401) throw error;
      localStorage.removeItem('credentials');
    }
  }
}

/** The plain value of extended JSON's wrappers. */
function plain(value) {
  if (value === null || typeof value !== 'object') return value;
  if ('$oid' in value) return value.$oid;
  if ('$date' in value) return new Date(plain(value.$date));
  for (const key of ['$numberInt', '$numberLong', '$numberDouble']) if (key in value) return Number(value[key]);
  return value;
}

async function show_stays() {
  const order = encodeURIComponent(JSON.stringify([{ field: 'createdAt', direction: 'desc' }]));
  const { list } = await as_visitor(`${COLLECTION}?offset=0&limit=20&order=${order}`);
  const urls = new Map();
  if (list.length > 0) {
    const infos = await as_visitor('/v1/storages/get-objects-download-info', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(list.map((stay) => ({ cloudObjectId: stay.fileID }))),
    });
    for (const info of infos) urls.set(info.cloudObjectId, info.downloadUrl);
  }
  document.getElementById('stays').replaceChildren(...list.map((stay) => {
    const item = document.createElement('li');
    const image = document.createElement('img');
    image.alt = `Photo of ${stay.guest}`;
    if (urls.get(stay.fileID)) image.src = urls.get(stay.fileID);
    const text = document.createElement('div');
    const time = document.createElement('time');
    time.textContent = plain(stay.createdAt).toLocaleString();
    text.append(`${stay.guest}, room ${plain(stay.room)}`, document.createElement('br'), time);
    item.append(image, text);
    return item;
  }));
}

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const button = form.querySelector('button');
  button.disabled = true;
  status.textContent = 'One moment…';
  try {
    const stay = await as_visitor(`/api/checkin?guest=${encodeURIComponent(form.guest.value)}`, {
      method: 'POST',
      headers: { 'content-type': 'image/jpeg' },
      body: form.photo.files[0],
    });
    status.textContent = `Your room is ${stay.room}. We see a ${stay.label}.`;
    form.reset();
    await show_stays();
  } catch (error) {
    status.textContent = error.message;
  } finally {
    button.disabled = false;
  }
});

show_stays().catch((error) => { status.textContent = error.message; });
