//! Engines to torture.
pub mod hamal;
pub mod pages;
#[cfg(feature = "redb")]
pub mod redb;
pub mod toy;

pub use self::hamal::Hamal;
pub use self::pages::Pages;
#[cfg(feature = "redb")]
pub use self::redb::Redb;
pub use self::toy::{Toy, ToyBug};

use crate::engine::Engine;

/// The names of the engines that are compiled in, for [`by_name`].
pub fn names() -> &'static [&'static str] {
    if cfg!(feature = "redb") { &["hamal", "pages", "toy", "redb"] } else { &["hamal", "pages", "toy"] }
}

/// The engine of that name; `None` if there is none.
pub fn by_name(name: &str) -> Option<Box<dyn Engine>> {
    Some(match name {
        "hamal" => Box::new(Hamal::new()),
        "pages" => Box::new(Pages::new()),
        "toy" => Box::new(Toy::new()),
        #[cfg(feature = "redb")]
        "redb" => Box::new(Redb::new()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_name_is_the_name_of_its_engine() {
        for name in super::names() {
            assert_eq!(super::by_name(name).map(|e| e.name().to_owned()).as_deref(), Some(*name));
        }
        assert!(super::by_name("none").is_none());
    }
}
