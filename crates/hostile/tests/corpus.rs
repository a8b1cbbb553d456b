//! Replays the fuzz corpora, and inputs near them, with the stable toolchain.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use hostile::TARGETS;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

/// Mutations tried of each file of a corpus.
const MUTATIONS: usize = 64;

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("the directory can be listed").path())
        .collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).expect("a corpus file can be read"))).collect()
}

/// One to four small changes, as a fuzzer would make them.
fn mutate(seed: &[u8], rng: &mut ChaCha12Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=rng.next_u32() % 4 {
        let at = rng.next_u32() as usize % bytes.len().max(1);
        match rng.next_u32() % 6 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), rng.next_u32() as u8),
            2 => bytes.extend_from_within(at.min(bytes.len())..),
            _ if bytes.is_empty() => {}
            3 => bytes[at] ^= 1 << (rng.next_u32() % 8),
            4 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.next_u32() as usize % 5],
            _ => bytes[at] = rng.next_u32() as u8,
        }
    }
    bytes
}

#[test]
fn every_corpus_and_what_is_near_it_is_survived() {
    for target in TARGETS {
        let files = corpus(target.name);
        assert!(files.len() >= 4, "the corpus of {} is missing", target.name);
        for (index, (path, seed)) in files.iter().enumerate() {
            (target.run)(seed);
            let mut rng = ChaCha12Rng::seed_from_u64(index as u64);
            for _ in 0..MUTATIONS {
                let input = mutate(seed, &mut rng);
                let survived = catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_ok();
                let near = path.display();
                assert!(survived, "{} fails near {near}: add this to its corpus: {input:02x?}", target.name);
            }
        }
    }
}

/// A target or a corpus that nobody runs would look like safety.
#[test]
fn every_target_has_a_fuzz_target_and_every_corpus_a_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for target in TARGETS {
        assert!(fuzz.join(format!("fuzz_targets/{}.rs", target.name)).exists(), "{}", target.name);
        assert!(
            manifest.contains(&format!("name = \"{}\"", target.name)),
            "{} is not in fuzz/Cargo.toml",
            target.name
        );
    }
    for entry in fs::read_dir(fuzz.join("corpus")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(hostile::target(&name).is_some(), "corpus {name} belongs to no target");
    }
}
