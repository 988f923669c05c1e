"use strict";
// SHA-256 (FIPS 180-4) of ASCII text, in hex. Kept here because crypto.subtle is missing on file: pages of some browsers.
const SHA_K = (() => {
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
  const bits = (x) => Math.floor((x - Math.floor(x)) * 4294967296) | 0;
  return { k: primes.map((p) => bits(Math.cbrt(p))), h: primes.slice(0, 8).map((p) => bits(Math.sqrt(p))) };
})();

function sha256Block(hash, block, w) {
  const rot = (x, n) => (x >>> n) | (x << (32 - n));
  for (let t = 0; t < 16; t++) w[t] = block.getInt32(t * 4);
  for (let t = 16; t < 64; t++) {
    const a = w[t - 15], b = w[t - 2];
    w[t] = (w[t - 16] + w[t - 7] + (rot(a, 7) ^ rot(a, 18) ^ (a >>> 3)) + (rot(b, 17) ^ rot(b, 19) ^ (b >>> 10))) | 0;
  }
  let [a, b, c, d, e, f, g, h] = hash;
  for (let t = 0; t < 64; t++) {
    const one = (h + (rot(e, 6) ^ rot(e, 11) ^ rot(e, 25)) + ((e & f) ^ (~e & g)) + SHA_K.k[t] + w[t]) | 0;
    const two = ((rot(a, 2) ^ rot(a, 13) ^ rot(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g; g = f; f = e; e = (d + one) | 0; d = c; c = b; b = a; a = (one + two) | 0;
  }
  [a, b, c, d, e, f, g, h].forEach((x, n) => { hash[n] = (hash[n] + x) | 0; });
}

function sha256(text) {
  const length = text.length, size = ((length + 72) >> 6) << 6;
  const bytes = new Uint8Array(size), view = new DataView(bytes.buffer);
  for (let n = 0; n < length; n++) bytes[n] = text.charCodeAt(n);
  bytes[length] = 0x80;
  view.setUint32(size - 8, Math.floor(length / 536870912));
  view.setUint32(size - 4, (length << 3) >>> 0);
  const hash = SHA_K.h.slice(), w = new Int32Array(64);
  for (let at = 0; at < size; at += 64) sha256Block(hash, new DataView(bytes.buffer, at, 64), w);
  return hash.map((x) => (x >>> 0).toString(16).padStart(8, "0")).join("");
}
