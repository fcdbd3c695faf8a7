//! SHA-256 (FIPS 180-4), for the header of a trace: it says which text of a scenario was run.

const K: [u32; 64] = {
    // Fractional parts of the cube roots of the first 64 primes.
    let mut k = [0u32; 64];
    let (mut n, mut i) = (2u64, 0);
    while i < 64 {
        let (mut d, mut prime) = (2, true);
        while d * d <= n {
            if n % d == 0 {
                prime = false;
            }
            d += 1;
        }
        if prime {
            k[i] = root(n, 3);
            i += 1;
        }
        n += 1;
    }
    k
};

/// The first 32 bits behind the point of the square or cube root of `n`.
const fn root(n: u64, degree: u32) -> u32 {
    // The largest x with x^degree <= n * 2^(32 * degree).
    let (mut low, mut high) = (0u128, 1u128 << 38);
    while low + 1 < high {
        let x = (low + high) / 2;
        // Compared piecewise: x^3 has up to 114 bits, n << 96 up to 105.
        let power = if degree == 2 { x * x } else { x * x * x };
        if power <= (n as u128) << (32 * degree) { low = x } else { high = x }
    }
    low as u32
}

/// The digest in hexadecimal digits.
pub(crate) fn hex(data: &[u8]) -> String {
    let mut state = [2, 3, 5, 7, 11, 13, 17, 19].map(|p| root(p, 2));
    let mut bytes = data.to_vec();
    bytes.push(0x80);
    while bytes.len() % 64 != 56 {
        bytes.push(0);
    }
    bytes.extend((data.len() as u64 * 8).to_be_bytes());
    for block in bytes.chunks_exact(64) {
        let mut w = [0u32; 64];
        for (w, b) in w.iter_mut().zip(block.chunks_exact(4)) {
            *w = u32::from_be_bytes([b[0], b[1], b[2], b[3]]);
        }
        for t in 16..64 {
            let (x, y) = (w[t - 15], w[t - 2]);
            let s0 = x.rotate_right(7) ^ x.rotate_right(18) ^ (x >> 3);
            let s1 = y.rotate_right(17) ^ y.rotate_right(19) ^ (y >> 10);
            w[t] = w[t - 16].wrapping_add(s0).wrapping_add(w[t - 7]).wrapping_add(s1);
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
        for t in 0..64 {
            let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let t1 =
                h.wrapping_add(s1).wrapping_add((e & f) ^ (!e & g)).wrapping_add(K[t]).wrapping_add(w[t]);
            let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let t2 = s0.wrapping_add((a & b) ^ (a & c) ^ (b & c));
            (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(t1), c, b, a, t1.wrapping_add(t2));
        }
        for (s, x) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *s = s.wrapping_add(x);
        }
    }
    state.iter().map(|w| format!("{w:08x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::hex;

    #[test]
    fn known_digests() {
        assert_eq!(hex(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hex(&[b'a'; 1000]), "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3");
    }
}
