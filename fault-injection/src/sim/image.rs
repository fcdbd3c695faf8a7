//! What a power failure leaves, as a value.
use super::file::FileState;
use super::state::{Names, State};
use super::{Fate, PendingOp, Persistence, Question};
use std::sync::Arc;

/// What a power failure at one moment leaves: what is durable, and what is undecided. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Image {
    pub(super) state: Arc<State>,
}

impl Image {
    /// The model of the disk that it is an image of.
    pub fn model(&self) -> Persistence {
        self.state.model
    }
    pub(super) fn new(state: State) -> Image {
        Image { state: Arc::new(state) }
    }
    /// An empty disk.
    pub fn empty(model: Persistence) -> Image {
        Image::new(State::empty(model))
    }
    /// What is pending, in the order in which it was issued. (A write that grows its file is one entry for both.) What an
    /// earlier power failure left undecided, and the boot after it did not ask for or overwrite, comes first; the events
    /// of these are numbers of the history before that boot.
    pub fn pending(&self) -> &[PendingOp] {
        &self.state.ops
    }
    /// Every question that could be asked, with the number of its answers; ascending.
    pub fn questions(&self) -> Vec<(Question, u8)> {
        self.state.questions()
    }
    /// The answer to `question` if the fate of sector `s` of pending operation `i` is `fate(i, s)` (`s` counts from the start
    /// of the file; it is 0 for lengths and names). Of several writes to a sector that are kept, the last counts. Zeros and
    /// garbage are as good as lost unless the model is `Hostile`, and as good as kept for lengths and names.
    pub fn answer(&self, question: Question, fate: &dyn Fn(usize, u64) -> Fate) -> u8 {
        let state = &self.state;
        let fate = |op: u32, s: u64| state.op_ids.binary_search(&op).map_or(Fate::Lost, |i| fate(i, s));
        match question {
            Question::Sector { file, sector } => {
                let page = state.file(file).and_then(|f| f.pages.get(&(sector / super::content::SECTORS)));
                let Some(versions) = page else { return 0 };
                let i = sector % super::content::SECTORS;
                let n = versions.of(i).count();
                let hostile = state.model == Persistence::Hostile;
                for (at, v) in versions.of(i).enumerate().collect::<Vec<_>>().into_iter().rev() {
                    match fate(v.op, sector) {
                        Fate::Kept => return at as u8 + 1,
                        Fate::Zeros if hostile => return n as u8 + 1,
                        Fate::Garbage if hostile => return n as u8 + 2,
                        _ => {}
                    }
                }
                0
            }
            Question::Length { file } => {
                let lengths = state.file(file).map_or(&[][..], |f| f.lengths());
                let kept = lengths.iter().skip(1).rposition(|l| fate(l.op, 0) != Fate::Lost);
                kept.map_or(0, |at| at as u8 + 1)
            }
            Question::Name { change } => {
                let p = state.names.pending.iter().find(|p| p.number == change);
                u8::from(p.is_some_and(|p| fate(p.op, 0) != Fate::Lost))
            }
        }
    }
    /// A hash of everything that can be read if the questions are answered so: equal disks have equal hashes, however they
    /// came about. Costs what is undecided, not what is stored.
    pub fn fingerprint(&self, answer: &dyn Fn(Question, u8) -> u8) -> u64 {
        self.state.fingerprint(answer)
    }
    /// The image in which all questions are answered so.
    #[must_use]
    pub fn decided(&self, answer: &dyn Fn(Question, u8) -> u8) -> Image {
        Image::new(self.state.decided(answer))
    }
    /// Names of the files; undecided ones are left out.
    pub fn names(&self) -> Vec<String> {
        let names = &self.state.names;
        let certain = |n: &&Arc<str>| !names.pending.iter().any(|p| p.change.touches(n));
        names.files.keys().filter(certain).map(|n| n.to_string()).collect()
    }
    /// The bytes of a file (undecided sectors, its length and its name as they were durable before).
    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        let f = self.state.file(*self.state.names.files.get(name)?)?;
        let mut out = vec![0; usize::try_from(f.durable_len()).ok()?];
        f.base().read(0, &mut out);
        Some(out)
    }
    /// The image with the file's bytes replaced, or with the file made: damage, and old files that reappear. The file and its
    /// name are durable then. A directory that is missing is made.
    #[must_use]
    pub fn with_file(&self, name: &str, bytes: &[u8]) -> Image {
        let mut state = State::clone(&self.state);
        let names = Arc::make_mut(&mut state.names);
        forget(names, name);
        let dir = super::state::dir_of(name);
        if !dir.is_empty() {
            forget(names, dir);
            names.dirs.insert(Arc::from(dir));
        }
        let id = match names.files.get(name) {
            Some(id) => *id,
            None => {
                let id = state.files.len() as u32;
                names.files.insert(Arc::from(name), id);
                state.files.push(None);
                id
            }
        };
        let slot = &mut state.files[id as usize];
        let replaced = match slot {
            Some(f) => f.replaced(bytes),
            None => FileState::default().replaced(bytes),
        };
        *slot = Some(Arc::new(replaced));
        state.forget_unused();
        Image::new(state)
    }
    /// The image without the file.
    #[must_use]
    pub fn without_file(&self, name: &str) -> Image {
        let mut state = State::clone(&self.state);
        let names = Arc::make_mut(&mut state.names);
        forget(names, name);
        names.files.remove(name);
        state.forget_unused();
        Image::new(state)
    }
}

/// What is undecided about a name is lost.
fn forget(names: &mut Names, name: &str) {
    names.pending.retain(|p| !p.change.touches(name));
}
