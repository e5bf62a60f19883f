//! How long a bare fdatasync takes: what a durable queue cannot beat.

use std::{fs, io::Write, time::Instant};

use crate::{Result, cli::Fsync, push::histogram};

pub(crate) fn run(args: &Fsync) -> Result<bool> {
    let path = args.dir.join(format!("pushbench-fsync-{}", std::process::id()));
    let measured = measure(args, &path);
    let removed = fs::remove_file(&path);
    let times = measured.map_err(|error| format!("{}: {error}", path.display()))?;
    removed?;
    let ms = |quantile| times.value_at_quantile(quantile) as f64 / 1e6;
    let (mean, p50, p99, max) = (times.mean() / 1e6, ms(0.5), ms(0.99), times.max() as f64 / 1e6);
    if args.json {
        let json = serde_json::json!({
            "bytes": args.bytes, "count": args.count,
            "mean_ms": mean, "p50_ms": p50, "p99_ms": p99, "max_ms": max,
        });
        println!("{json}");
    } else {
        println!(
            "fdatasync after {} B, {} times: mean {mean:.3} ms, p50 {p50:.3}, p99 {p99:.3}, max {max:.3}; {:.0}/s",
            args.bytes,
            args.count,
            1e3 / mean
        );
    }
    Ok(true)
}

fn measure(args: &Fsync, path: &std::path::Path) -> Result<hdrhistogram::Histogram<u64>> {
    let mut file = fs::OpenOptions::new().create_new(true).write(true).open(path)?;
    let bytes = vec![0x5a; args.bytes as usize];
    let mut times = histogram();
    for _ in 0..args.count {
        file.write_all(&bytes)?;
        let start = Instant::now();
        file.sync_data()?;
        times.saturating_record(start.elapsed().as_nanos() as u64);
    }
    Ok(times)
}
