//! The table of clauses says what is true.

use std::path::Path;

/// What stands between backquotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_item_has_its_row_its_code_and_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("CLAUSES.md")).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| ") && line.as_bytes().get(2).is_some_and(u8::is_ascii_digit))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 56);
    for (row, item) in rows.iter().zip(1..) {
        let [number, _, _, code, tests] = row[..] else { panic!("five cells: {row:?}") };
        assert_eq!(number, format!("{item:02}"));
        let mut source = String::new();
        for quoted in quoted(code) {
            if quoted.contains(".rs") {
                source = std::fs::read_to_string(root.join("src").join(quoted))
                    .unwrap_or_else(|error| panic!("item {number}: {quoted}: {error}"));
            } else {
                for name in quoted.split(", ") {
                    let is_there =
                        source.contains(&format!("fn {name}")) || source.contains(&format!("{name} {{"));
                    assert!(is_there || source.contains(&format!("{name}(")), "item {number}: no {name}");
                }
            }
        }
        for file in quoted(tests) {
            let source = std::fs::read_to_string(root.join("tests/clauses").join(file)).unwrap();
            assert!(source.contains(&format!("fn item_{number}_")), "item {number} has no test in {file}");
        }
    }
}
