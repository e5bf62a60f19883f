//! CPU and memory of processes, from /proc.

use std::{fs, time::Duration};

use crate::Result;

/// What some processes used up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Ticks in user and in kernel mode: sampled, so only their ratio is used.
    user_ticks: u64,
    system_ticks: u64,
    /// Time on a CPU, exact to the ns, of the threads that live.
    on_cpu: Duration,
    /// Resident bytes.
    pub(crate) rss: u64,
}

/// CPU time between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cpu {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

#[cfg(test)]
impl Cpu {
    fn total(self) -> f64 {
        self.user + self.system
    }
}

impl Usage {
    /// Of all these processes together.
    pub(crate) fn of(pids: &[u32]) -> Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let one = Self::of_one(*pid).map_err(|error| format!("process {pid}: {error}"))?;
            sum.user_ticks += one.user_ticks;
            sum.system_ticks += one.system_ticks;
            sum.on_cpu += one.on_cpu;
            sum.rss += one.rss;
        }
        Ok(sum)
    }

    fn of_one(pid: u32) -> Result<Self> {
        let (user_ticks, system_ticks) = ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?)?;
        let mut on_cpu = 0;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            // a thread may end meanwhile
            if let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) {
                on_cpu += text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
            }
        }
        let rss = rss(&fs::read_to_string(format!("/proc/{pid}/status"))?)?;
        Ok(Self { user_ticks, system_ticks, on_cpu: Duration::from_nanos(on_cpu), rss })
    }

    /// CPU since an earlier moment: the exact time, split as the ticks are. A process whose threads ended meanwhile, or
    /// whose kernel keeps no schedstat, is taken by its ticks.
    pub(crate) fn since(&self, earlier: &Self) -> Cpu {
        /// The kernel's USER_HZ, which is 100 on every Linux that Rust runs on.
        const TICK: f64 = 0.01;
        let user = self.user_ticks.saturating_sub(earlier.user_ticks) as f64;
        let system = self.system_ticks.saturating_sub(earlier.system_ticks) as f64;
        let exact = self.on_cpu.saturating_sub(earlier.on_cpu).as_secs_f64();
        let sampled = (user + system) * TICK;
        let total = if exact + 0.05 < sampled * 0.9 { sampled } else { exact };
        let share = if user + system > 0.0 { user / (user + system) } else { 0.0 };
        Cpu { user: total * share, system: total * (1.0 - share) }
    }
}

/// utime and stime: the 14th and 15th field. The second, the name, may hold anything.
fn ticks(stat: &str) -> Result<(u64, u64)> {
    let mut fields = stat.rsplit_once(')').ok_or("no name in stat")?.1.split_ascii_whitespace().skip(11);
    let mut field = || fields.next().and_then(|field| field.parse().ok()).ok_or("too few fields in stat");
    Ok((field()?, field()?))
}

fn rss(status: &str) -> Result<u64> {
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in status: has it ended?")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "12 (a b) c) S 1 2 3 4 5 6 7 8 9 10 77 88 0 0";
        assert_eq!(ticks(stat).unwrap(), (77, 88));
        assert!(ticks("12 (a) S 1").is_err());
    }

    #[test]
    fn this_very_process_has_used_something() {
        let usage = Usage::of(&[std::process::id()]).unwrap();
        assert!(usage.rss > 100_000);
        assert_eq!(usage.since(&usage), Cpu::default());
        assert!(Usage::of(&[u32::MAX - 7]).is_err());
    }

    #[test]
    fn the_exact_time_is_split_as_the_ticks_are() {
        let earlier = Usage::default();
        let later = Usage { user_ticks: 25, system_ticks: 75, on_cpu: Duration::from_millis(1040), rss: 0 };
        let cpu = later.since(&earlier);
        assert!((cpu.user - 0.26).abs() < 1e-9 && (cpu.total() - 1.04).abs() < 1e-9, "{cpu:?}");
        // threads that ended took their schedstat with them
        let later = Usage { on_cpu: Duration::from_millis(100), ..later };
        assert!((later.since(&earlier).total() - 1.0).abs() < 1e-9);
    }
}
