//! Reading ahead: a thread that reads the chunks of the log one after another, so that the device works while records are
//! checked and sorted to their pages.
use crate::segment::Segment;
use hamal_disk::{AlignedBuf, read_exact_at};
use hamal_sync::thread::{Builder, JoinHandle};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// Chunks that may be read and not yet asked for.
const DEPTH: usize = 8;

/// One chunk: the segment, the LSN of its first byte, and its length.
pub(crate) type Piece = (Arc<Segment>, u64, usize);

/// The chunks of `segments` from the one that holds `from` on.
pub(crate) fn pieces(
    segments: &[Arc<Segment>],
    from: u64,
    chunk: u64,
) -> impl Iterator<Item = Piece> + use<> {
    let segments: Vec<_> = segments.iter().filter(|s| s.end() > from).cloned().collect();
    segments.into_iter().flat_map(move |s| {
        let first = s.first + from.saturating_sub(s.first) / chunk * chunk;
        let end = s.end();
        (first..end).step_by(chunk as usize).map(move |at| (s.clone(), at, chunk.min(end - at) as usize))
    })
}

/// A thread that reads ahead. It ends when this is dropped, or with the last chunk.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    chunks: Option<Receiver<(u64, io::Result<AlignedBuf>)>>,
    thread: Option<JoinHandle<()>>,
    /// Below this everything has been taken, or was passed over.
    next: u64,
}

impl ReadAhead {
    /// `None` if no thread can be had: then nothing is read ahead.
    pub(crate) fn start(segments: &[Arc<Segment>], from: u64, chunk: u64) -> Option<ReadAhead> {
        let (send, chunks) = sync_channel(DEPTH);
        let plan = pieces(segments, from, chunk);
        let body = move || {
            for (segment, start, len) in plan {
                let mut bytes = AlignedBuf::new(len);
                let read = read_exact_at(&*segment.file, segment.offset(start), &mut bytes).map(|()| bytes);
                let failed = read.is_err();
                if send.send((start, read)).is_err() || failed {
                    return;
                }
            }
        };
        let thread = Builder::new().name("hamal-log-ahead".into()).spawn(body).ok()?;
        Some(ReadAhead { chunks: Some(chunks), thread: Some(thread), next: from })
    }

    /// The chunk that begins at `start`, if it is among those still to come; those before it are passed over.
    pub(crate) fn take(&mut self, start: u64, len: usize) -> Option<io::Result<AlignedBuf>> {
        if start + (len as u64) <= self.next {
            return None;
        }
        while let Ok((at, bytes)) = self.chunks.as_ref()?.recv() {
            self.next = at + bytes.as_ref().map_or(0, |b| b.len() as u64);
            if at >= start {
                let fits = at == start && bytes.as_ref().map_or(true, |b| b.len() == len);
                return fits.then_some(bytes);
            }
        }
        self.chunks = None;
        None
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.chunks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
