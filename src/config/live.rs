//! The settings that a running tandem changes without a restart: `tandem set KEY=VALUE`, `PATCH /v1/settings`. They are
//! read with each use, through one atomic load; after a restart the file counts again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::ArcSwap;

use super::Config;
use super::section::SHAPES;
use super::source::nearest;
use super::value::{OnDdl, OnFull, OnUncaptured, Patterns, Setting, Share};

/// A handle to the current settings; cheap to clone.
#[derive(Clone)]
pub struct Live(Arc<Shared>);

struct Shared {
    settings: ArcSwap<Settings>,
    /// [`Share::bound`] of `shadow.sample`: every read of every client looks at it.
    sampled: AtomicU64,
}

/// A change that was refused; nothing was changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// No such key.
    #[error("`{0}` cannot be changed while tandem runs; did you mean `{1}`?")]
    Unknown(String, &'static str),
    /// Not one that a running tandem changes.
    #[error(
        "`{0}` is read at the start: change it in proxy.toml and restart tandem, which drops its clients. `tandem set` lists what \
         can be changed now"
    )]
    AtStart(String),
    /// Not a value of this key.
    #[error("`{0}` must be {1}")]
    Value(&'static str, &'static str),
}

/// A key of proxy.toml.
fn is_known(name: &str) -> bool {
    let Some((section, key)) = name.split_once('.') else { return false };
    SHAPES.iter().any(|&(of, _, _, keys)| of == section && keys.iter().any(|known| known.name == key))
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])* $section:ident . $key:ident: $type:ty;)+) => {
        /// What can be changed.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Settings { $($(#[doc = $doc])* pub $key: $type,)+ }

        impl Settings {
            const NAMES: &'static [&'static str] = &[$(concat!(stringify!($section), ".", stringify!($key))),+];

            fn of(config: &Config) -> Settings {
                Settings { $($key: config.$section.$key.clone()),+ }
            }

            fn set(&mut self, name: &str, text: &str) -> Result<(), Refused> {
                match name {
                    $(concat!(stringify!($section), ".", stringify!($key)) => {
                        const NAME: &str = concat!(stringify!($section), ".", stringify!($key));
                        self.$key = <$type>::from_text(text).ok_or(Refused::Value(NAME, <$type>::EXPECTS))?;
                    })+
                    other if is_known(other) => return Err(Refused::AtStart(other.to_owned())),
                    other => {
                        let near = nearest(other, Settings::NAMES.iter().copied()).expect("there are settings");
                        return Err(Refused::Unknown(other.to_owned(), near));
                    }
                }
                Ok(())
            }

            /// Names and values in text form.
            pub fn texts(&self) -> BTreeMap<&'static str, String> {
                BTreeMap::from([$((
                    concat!(stringify!($section), ".", stringify!($key)),
                    ToString::to_string(&self.$key),
                )),+])
            }
        }
    };
}

settings! {
    /// A write whose keys cannot be learned.
    mirror.on_uncaptured: OnUncaptured;
    /// A schema change.
    mirror.ddl: OnDdl;
    /// TRUNCATE.
    mirror.truncate: OnDdl;
    /// A full journal.
    journal.on_full: OnFull;
    /// What is logged.
    log.level: String;
    /// The share of reads that is repeated on the secondary.
    shadow.sample: Share;
    /// Tables whose reads are.
    shadow.tables: Patterns;
    /// Users whose reads are.
    shadow.users: Patterns;
    /// Addresses of clients whose reads are.
    shadow.clients: Patterns;
    /// Statements that are.
    shadow.statements: Patterns;
    /// Columns that are not compared.
    shadow.ignore: Patterns;
}

impl Live {
    /// The settings as configured.
    pub fn new(config: &Config) -> Live {
        let settings = Settings::of(config);
        let sampled = AtomicU64::new(settings.sample.bound());
        Live(Arc::new(Shared { settings: ArcSwap::from_pointee(settings), sampled }))
    }

    /// Of numbers of 32 random bits, those below this one are sampled for `shadow.sample`: one relaxed load.
    pub fn sampled(&self) -> u64 {
        self.0.sampled.load(Relaxed)
    }

    /// As they are now.
    pub fn get(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.0.settings.load()
    }

    /// Change all of these, or none if one is refused.
    pub fn change<'a>(&self, changes: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Result<Settings, Refused> {
        let mut settings = Settings::clone(&self.get());
        for (name, text) in changes {
            settings.set(name, text)?;
        }
        self.0.settings.store(Arc::new(settings.clone()));
        self.0.sampled.store(settings.sample.bound(), Relaxed);
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live() -> Live {
        Live::new(&Config::from_text("proxy.toml", &super::super::example(), []).expect("valid"))
    }

    #[test]
    fn a_change_is_seen_by_everyone_who_reads_next() {
        let (live, other) = {
            let live = live();
            (live.clone(), live)
        };
        live.change([("mirror.ddl", "refuse")].into_iter()).expect("allowed");
        assert_eq!(other.get().ddl, OnDdl::Refuse);
        assert_eq!(other.get().texts()["mirror.ddl"], "refuse");
    }

    #[test]
    fn a_key_that_needs_a_restart_is_not_taken_for_a_slip_of_the_pen() {
        let refused = live().change([("cutover.max_lag", "5s")].into_iter()).expect_err("read at the start");
        assert_eq!(refused, Refused::AtStart("cutover.max_lag".to_owned()));
    }

    #[test]
    fn a_share_of_reads_is_seen_with_the_next_read() {
        let live = live();
        assert_eq!(live.sampled(), 0);
        live.change([("shadow.sample", "50%"), ("shadow.tables", "a.*,b")].into_iter()).expect("allowed");
        assert_eq!(live.sampled(), 1 << 31);
        assert_eq!(live.get().texts()["shadow.tables"], "a.*,b");
    }

    #[test]
    fn a_change_that_is_refused_in_part_changes_nothing() {
        let live = live();
        let wrong = live.change([("mirror.ddl", "refuse"), ("mirror.truncate", "maybe")].into_iter());
        assert_eq!(wrong, Err(Refused::Value("mirror.truncate", OnDdl::EXPECTS)));
        let unknown = live.change([("mirror.dll", "refuse")].into_iter());
        assert_eq!(unknown, Err(Refused::Unknown("mirror.dll".to_owned(), "mirror.ddl")));
        assert_eq!(live.get().ddl, OnDdl::Mirror);
    }
}
