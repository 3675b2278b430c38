// Loaded into every Node.js that starts in a sandbox with a way out (NODE_OPTIONS): before release 24 Node heeds no proxy
// of the environment. Makes `fetch`, `http` and `https` connect through it, in tunnels. Loads nothing before it is needed.
'use strict';

const [major, minor] = process.versions.node.split('.').map(Number);
const proxy = process.env.https_proxy || process.env.HTTPS_PROXY || '';
const address = /^http:\/\/([\w.-]+):(\d+)\/?$/.exec(proxy);
const isNeeded = address && major >= 16 && major < 24 && !(major === 22 && minor >= 21);

function isDirect(host) {
  const name = String(host || 'localhost').toLowerCase().replace(/^\[|\]$/g, '');
  if (name === 'localhost' || name === '127.0.0.1' || name === '::1') return true;
  const listed = (process.env.no_proxy || process.env.NO_PROXY || '').toLowerCase().split(/[\s,]+/).filter(Boolean);
  return listed.some((each) => each === '*' || each === name || name.endsWith(each.startsWith('.') ? each : `.${each}`));
}

// Calls back with a socket that is a tunnel to host and port, or with the reason why there is none.
function tunnel(host, port, callback) {
  const name = String(host).includes(':') && !String(host).startsWith('[') ? `[${host}]` : host;
  const socket = require('net').connect({ host: address[1], port: Number(address[2]) });
  let head = Buffer.alloc(0);
  const fail = (error) => {
    socket.removeAllListeners();
    socket.on('error', () => {});
    socket.destroy();
    callback(error);
  };
  const closed = () => fail(new Error('the proxy closed the connection'));
  const onData = (data) => {
    head = Buffer.concat([head, data]);
    const end = head.indexOf('\r\n\r\n');
    if (end < 0) return head.length > 65536 ? fail(new Error('the proxy does not answer as one')) : undefined;
    const line = head.subarray(0, head.indexOf('\r\n')).toString('latin1');
    if (!/^HTTP\/1\.[01] 200/.test(line)) {
      const error = new Error(`the proxy refused ${name}:${port}: ${line.replace(/^HTTP\/1\.\d /, '')}`);
      error.code = 'ERR_PROXY_REFUSED';
      return fail(error);
    }
    socket.removeListener('data', onData);
    socket.removeListener('error', fail);
    socket.removeListener('close', closed);
    socket.pause();
    const rest = head.subarray(end + 4);
    if (rest.length) socket.unshift(rest);
    callback(null, socket);
  };
  socket.on('error', fail);
  socket.on('close', closed);
  socket.on('data', onData);
  socket.setNoDelay(true);
  socket.write(`CONNECT ${name}:${port} HTTP/1.1\r\nHost: ${name}:${port}\r\n\r\n`);
}

function secured(socket, options, callback) {
  const name = String(options.servername || options.host || options.hostname).replace(/^\[|\]$/g, '');
  const servername = require('net').isIP(name) ? '' : name;
  // Nobody is connected to `host`; without a name the certificate must be for it.
  const secure = require('tls').connect({ ...options, host: name, port: undefined, path: undefined, servername, socket });
  secure.once('error', callback);
  secure.once('secureConnect', () => {
    secure.removeListener('error', callback);
    callback(null, secure);
  });
}

function patchAgent(Agent, isSecure) {
  const original = Agent.prototype.createConnection;
  Agent.prototype.createConnection = function createConnection(options, callback) {
    const host = options.host || options.hostname;
    if (options.socketPath || options.socket || typeof callback !== 'function' || isDirect(host)) {
      return original.apply(this, arguments);
    }
    tunnel(host, options.port || (isSecure ? 443 : 80), (error, socket) => {
      if (error) return callback(error);
      if (isSecure) return secured(socket, options, callback);
      callback(null, socket);
      process.nextTick(() => socket.resume()); // whoever has it listens by now
    });
    return undefined;
  };
}

const patched = new Set();
function patch(name, loaded) {
  if (patched.has(name)) return;
  patched.add(name);
  patchAgent(loaded.Agent, name === 'https');
}

function patchFetch() {
  const original = globalThis.fetch;
  if (typeof original !== 'function') return;
  const dispatcher = Symbol.for('undici.globalDispatcher.1');
  let isReady = false;
  const prepare = () => {
    isReady = true;
    if (globalThis[dispatcher] === undefined) original().catch(() => {}); // it loads what it needs, and is told nothing
    const Agent = globalThis[dispatcher] && globalThis[dispatcher].constructor;
    if (typeof Agent !== 'function') return;
    const connect = (options, callback) => {
      const isSecure = options.protocol === 'https:';
      const port = Number(options.port) || (isSecure ? 443 : 80);
      const found = (error, socket) => {
        if (error) return callback(error);
        if (!isSecure) return callback(null, socket);
        secured(socket, { servername: options.servername || options.hostname, ALPNProtocols: ['http/1.1'] }, callback);
      };
      if (!isDirect(options.hostname)) return tunnel(options.hostname, port, found);
      const host = options.hostname.replace(/^\[|\]$/g, '');
      const socket = require('net').connect({ host, port });
      socket.once('error', callback);
      socket.once('connect', () => {
        socket.removeListener('error', callback);
        found(null, socket);
      });
      return undefined;
    };
    globalThis[dispatcher] = new Agent({ connect });
  };
  const fetch = function fetch(input, init) {
    if (!isReady) prepare();
    return original.apply(this, arguments);
  };
  Object.defineProperty(globalThis, 'fetch', { value: fetch, writable: true, configurable: true, enumerable: true });
}

if (isNeeded) {
  try {
    const Module = require('module');
    const load = Module._load;
    Module._load = function _load(request) {
      const loaded = load.apply(this, arguments);
      const name = typeof request === 'string' ? request.replace(/^node:/, '') : '';
      if (name === 'http' || name === 'https') patch(name, loaded);
      return loaded;
    };
    if (/\.mjs$/.test(process.argv[1] || '')) { // modules of this kind are not loaded in a way that could be seen
      patch('http', require('http'));
      patch('https', require('https'));
    }
    patchFetch();
  } catch {
    // A program without a way out is better than one that does not start.
  }
}
