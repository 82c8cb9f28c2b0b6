//! What the CQL codec costs a frame, in nanoseconds and in allocations: to split frames off a read buffer and restamp
//! them, to read an EXECUTE, to give it a default timestamp, and to take it out of and put it into v5 segments.
//!
//! A relayed frame must not allocate: the allocator counts, and the benchmark fails if it does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tandem::protocol::cql::wire::compress::{Compression, Scratch};
use tandem::protocol::cql::wire::frame::{Envelope, Frame, Frames, From, Opcode, Version, restamp};
use tandem::protocol::cql::wire::primitive::{Consistency, Value};
use tandem::protocol::cql::wire::request::{Execute, Parameters, Values, prepared_id};
use tandem::protocol::cql::wire::response::{Outcome, Response};
use tandem::protocol::cql::wire::segment::{Form, Reader, Writer};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is the system's allocator's; only a count is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMIT: usize = 16 << 20;
/// Frames of one read.
const FRAMES: usize = 32;

/// An EXECUTE of an INSERT with five values, 120 bytes of them, as a driver without client timestamps sends it.
fn execute(version: Version) -> BytesMut {
    let text = [b'x'; 84];
    let values: Vec<_> =
        [&text[..], &[1; 8], &[2; 8], &[3; 4], &[4; 16]].map(|bytes| (None, Value::Set(bytes))).to_vec();
    let parameters = Parameters {
        values: Some(Values::Given(&values)),
        page_size: Some(5000),
        ..Parameters::new(Consistency::LocalQuorum)
    };
    let execute = Execute { id: b"0123456789abcdef", result_metadata_id: Some(b"fedcba9876543210"), parameters };
    let mut out = BytesMut::new();
    Envelope::new(version, 7, Opcode::Execute).put(&mut out, |out| execute.put(out, version)).expect("an EXECUTE");
    out
}

/// The same work, timed, and its allocations once everything has grown to its size.
fn measure(c: &mut Criterion, name: &str, bytes: usize, mut work: impl FnMut()) {
    (0..10).for_each(|_| work());
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..1000).for_each(|_| work());
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(allocations, 0, "{name} allocates");
    let mut group = c.benchmark_group(format!("{name}, {FRAMES} frames, 0 allocations"));
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("", |b| b.iter(&mut work));
    group.finish();
}

fn plain(c: &mut Criterion) {
    let version = Version::V4;
    let mut read: Vec<u8> = (0..FRAMES).flat_map(|_| execute(version).to_vec()).collect();
    let mut out = BytesMut::with_capacity(2 * read.len());
    measure(c, "copy", read.len(), || {
        out.clear();
        out.extend_from_slice(black_box(&read));
    });
    measure(c, "split", read.len(), || {
        let frames = Frames::new(black_box(&read), From::Client, LIMIT);
        assert_eq!(frames.map_while(Result::ok).count(), FRAMES);
    });
    measure(c, "split, and read the id", read.len(), || {
        let frames = Frames::new(black_box(&read), From::Client, LIMIT).map_while(Result::ok);
        assert_eq!(frames.filter_map(|frame| prepared_id(frame.body()).ok()).map(black_box).count(), FRAMES);
    });
    let len = read.len();
    measure(c, "split, and change stream ids in place", len, || {
        let mut at = 0;
        while let Ok(Some(frame)) = Frame::split(black_box(&read[at..]), From::Client, LIMIT) {
            let end = at + frame.bytes.len();
            restamp(&mut read[at..end], 9);
            at = end;
        }
        assert_eq!(at, len);
    });
    measure(c, "split, read all, and put with a timestamp", len, || {
        out.clear();
        for frame in Frames::new(black_box(&read), From::Client, LIMIT).map_while(Result::ok) {
            stamp(frame, &mut out).expect("sound frames");
        }
    });
}

fn stamp(frame: Frame<'_>, out: &mut BytesMut) -> Result<(), tandem::protocol::cql::wire::Error> {
    let version = frame.header.version;
    let envelope = Envelope::open(frame.header, frame.body())?;
    let mut execute = Execute::parse(version, envelope.message)?;
    execute.parameters.timestamp = Some(1_700_000_000_000_000);
    envelope.put(out, |out| execute.put(out, version))
}

fn segments(c: &mut Criterion) {
    let frame = execute(Version::V5);
    for form in [Form::Plain, Form::Lz4] {
        let (mut scratch, mut wire, mut out) = (Scratch::default(), BytesMut::new(), BytesMut::with_capacity(1 << 16));
        let mut writer = Writer::new(form);
        (0..FRAMES).for_each(|_| writer.push(&frame, &mut wire, &mut scratch));
        writer.close(&mut wire, &mut scratch);
        let len = frame.len() * FRAMES;
        let mut reader = Reader::new(form, From::Client, LIMIT);
        measure(c, &format!("read a {form:?} segment"), len, || {
            let segment = reader.next(black_box(&wire), &mut scratch).expect("a segment").expect("a whole one");
            assert_eq!(Frames::new(segment.frames, From::Client, LIMIT).map_while(Result::ok).count(), FRAMES);
        });
        measure(c, &format!("write a {form:?} segment"), len, || {
            out.clear();
            (0..FRAMES).for_each(|_| writer.push(black_box(&frame), &mut out, &mut scratch));
            writer.close(&mut out, &mut scratch);
        });
    }
}

fn compressed(c: &mut Criterion) {
    let frame = execute(Version::V4);
    let whole = Frame::split(&frame, From::Client, LIMIT).expect("a frame").expect("a whole one");
    let mut out = BytesMut::with_capacity(1 << 16);
    for compression in [Compression::Lz4, Compression::Snappy] {
        let mut scratch = Scratch::default();
        let mut small = BytesMut::new();
        scratch.compress(whole, compression, &mut small);
        measure(c, &format!("open {compression:?} bodies"), frame.len() * FRAMES, || {
            for _ in 0..FRAMES {
                let frame = Frame::split(black_box(&small), From::Client, LIMIT).expect("a frame").expect("whole");
                assert!(scratch.open(frame, Some(compression), LIMIT).is_ok());
            }
        });
        measure(c, &format!("compress with {compression:?}"), frame.len() * FRAMES, || {
            out.clear();
            (0..FRAMES).for_each(|_| scratch.compress(black_box(whole), compression, &mut out));
        });
    }
}

fn responses(c: &mut Criterion) {
    let mut out = BytesMut::with_capacity(1 << 16);
    measure(c, "answer Void of our own", 13 * FRAMES, || {
        out.clear();
        for stream in 0..FRAMES as i16 {
            Response::Result(Outcome::Void).put_frame(&mut out, Version::V4, stream).expect("a short frame");
        }
    });
    measure(c, "read Void", 13 * FRAMES, || {
        for frame in Frames::new(black_box(&out), From::Server, LIMIT).map_while(Result::ok) {
            let envelope = Envelope::open(frame.header, frame.body()).expect("an envelope");
            assert!(matches!(Response::parse(&envelope), Ok(Response::Result(Outcome::Void))));
        }
    });
}

criterion_group!(benches, plain, segments, compressed, responses);
criterion_main!(benches);
