//! `shadowmesh`: links machines over any network. Everything is in the library beside it.

use std::process::ExitCode;

/// Counts what each thread allocates, so that `status` can show that the data plane allocates nothing.
#[global_allocator]
static ALLOCATOR: os::alloc::Counting = os::alloc::Counting;

fn main() -> ExitCode {
    shadowmesh::main()
}
