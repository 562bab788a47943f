//! The table, ratios first, and the same as JSON.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::args::{Arguments, Failed};
use crate::clock::real;
use crate::idle::Idle;
use crate::machine::{self, Machine, Memory};
use crate::rounds::{Measured, Results, Side};
use crate::soak::Soak;

/// One line for the person.
pub(crate) fn say(line: &str) -> Result<(), Failed> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}

/// Says what went wrong.
pub(crate) fn complain(error: &dyn std::error::Error) {
    // Nothing can be done about a standard error stream that is closed.
    drop(writeln!(std::io::stderr().lock(), "error: {error}"));
}

/// Prints the tables and writes the file, if one is wanted.
pub(crate) fn print(
    arguments: &Arguments,
    before: &Machine,
    results: &Results,
) -> Result<(), Failed> {
    let after = machine::load();
    let mut text = String::new();
    for (name, value) in &before.facts {
        writeln!(text, "{name:12}{value}")?;
    }
    writeln!(text, "{:12}{after}", "load after")?;
    if !results.rows.is_empty() {
        writeln!(
            text,
            "{:12}{} rounds of {} requests a row and side; one thread makes the load",
            "run", arguments.rounds, arguments.requests
        )?;
        ratios(&mut text, &results.rows)?;
        times(&mut text, &results.rows)?;
    }
    if !results.idle.is_empty() {
        idle(&mut text, arguments.idle, &results.idle)?;
    }
    if !results.soak.is_empty() {
        soak(&mut text, &results.soak)?;
    }
    for note in &results.notes {
        writeln!(text, "\n{note}")?;
    }
    std::io::stdout().lock().write_all(text.as_bytes())?;
    if let Some(path) = &arguments.json {
        let all = as_json(arguments, before, &after, results);
        std::fs::write(path, serde_json::to_vec_pretty(&all)?)?;
    }
    Ok(())
}

fn ratios(text: &mut String, rows: &[Measured]) -> std::fmt::Result {
    text.push_str("\n| row | p50 ÷ floor (quartiles) | requests/s ÷ floor | p99 ÷ floor |\n");
    text.push_str("|---|---|---|---|\n");
    for one in rows {
        let [subject, floor] = &one.sides;
        if void(one) {
            writeln!(
                text,
                "| {} | void: {} and {} errors | | |",
                one.row.name(),
                subject.errors,
                floor.errors
            )?;
            continue;
        }
        let p50 = Ratio::of(&subject.medians, &floor.medians);
        let rate = Ratio::of(&subject.rates, &floor.rates);
        let p99 = Ratio::of(&subject.tails, &floor.tails);
        writeln!(
            text,
            "| {} | **{:.2}** ({:.2}–{:.2}) | {:.2} | {:.2} |",
            one.row.name(),
            p50.median,
            p50.low,
            p50.high,
            rate.median,
            p99.median
        )?;
    }
    Ok(())
}

fn times(text: &mut String, rows: &[Measured]) -> std::fmt::Result {
    text.push_str(
        "\n| row | side | min p50 | p50 | p99 | p99.9 | requests/s | CPU a request | waits a request | errors |\n",
    );
    text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
    for one in rows {
        for side in &one.sides {
            writeln!(text, "| {} | {} |", one.row.name(), cells(side))?;
        }
    }
    text.push_str("\nTimes in µs.\n");
    let mut said = "";
    for one in rows {
        let measure = one.row.measure();
        if let Some(bytes) = one.reply_bytes
            && said != measure
        {
            said = measure;
            writeln!(text, "A reply of {measure} is {bytes} bytes on both sides.")?;
        }
    }
    Ok(())
}

fn idle(text: &mut String, seconds: u16, sides: &[Idle]) -> std::fmt::Result {
    writeln!(
        text,
        "\n| idle for {seconds} s | waits | preemptions | private KiB | descriptors | threads |"
    )?;
    text.push_str("|---|---|---|---|---|---|\n");
    for side in sides {
        let (used, memory) = (side.used, side.memory);
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            side.name,
            used.waits,
            used.preemptions,
            known(memory.private),
            known(memory.descriptors),
            memory.threads
        )?;
    }
    Ok(())
}

fn soak(text: &mut String, all: &[Soak]) -> std::fmt::Result {
    text.push_str(
        "\n| soak | connections | after | private KiB | descriptors | threads | errors |\n",
    );
    text.push_str("|---|---|---|---|---|---|---|\n");
    for one in all {
        for (requests, memory) in [(one.requests / 10, one.early), (one.requests, one.late)] {
            writeln!(
                text,
                "| soak/{} | {} | {requests} | {} | {} | {} | {} |",
                one.connections,
                one.connections,
                known(memory.private),
                known(memory.descriptors),
                memory.threads,
                one.errors
            )?;
        }
    }
    Ok(())
}

/// A dash where the kernel does not say.
fn known(count: Option<u64>) -> String {
    count.map_or_else(|| "–".to_owned(), |count| count.to_string())
}

fn void(measured: &Measured) -> bool {
    measured.sides.iter().any(|side| side.errors > 0)
}

fn cells(side: &Side) -> String {
    let micros = |nanos: f64| nanos / 1000.0;
    let at = |quantile| micros(real(side.all.value_at_quantile(quantile)));
    let least = side.medians.iter().copied().fold(f64::INFINITY, f64::min);
    let count = real(side.all.len().max(1));
    // Nobody counted where there is nothing.
    let used = if side.used.cpu == 0 {
        "– | –".to_owned()
    } else {
        let cpu = micros(real(side.used.cpu)) / count;
        format!("{cpu:.1} | {:.2}", real(side.used.waits) / count)
    };
    format!(
        "{} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} | {used} | {}",
        side.name,
        micros(least),
        at(0.5),
        at(0.99),
        at(0.999),
        quantile(&side.rates, 0.5),
        side.errors
    )
}

fn as_json(arguments: &Arguments, before: &Machine, after: &str, results: &Results) -> Value {
    let facts: serde_json::Map<String, Value> = before
        .facts
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    let rows: Vec<Value> = results
        .rows
        .iter()
        .map(|one| {
            let sides = one.sides.each_ref().map(|side| {
                json!({
                    "name": side.name,
                    "p50_ns": side.all.value_at_quantile(0.5),
                    "p99_ns": side.all.value_at_quantile(0.99),
                    "p99_9_ns": side.all.value_at_quantile(0.999),
                    "round_p50_ns": side.medians,
                    "round_p99_ns": side.tails,
                    "round_requests_per_s": side.rates,
                    "requests": side.all.len(),
                    "server_cpu_ns": side.used.cpu,
                    "server_waits": side.used.waits,
                    "errors": side.errors,
                })
            });
            let [subject, floor] = &one.sides;
            let p50 = Ratio::of(&subject.medians, &floor.medians);
            json!({
                "row": one.row.name(),
                "void": void(one),
                "reply_bytes": one.reply_bytes,
                "p50_ratio": p50.median,
                "p50_ratio_quartiles": [p50.low, p50.high],
                "sides": sides,
            })
        })
        .collect();
    let idle: Vec<Value> = results
        .idle
        .iter()
        .map(|side| {
            json!({
                "name": side.name,
                "seconds": arguments.idle,
                "waits": side.used.waits,
                "preemptions": side.used.preemptions,
                "memory": memory(&side.memory),
            })
        })
        .collect();
    let soak: Vec<Value> = results
        .soak
        .iter()
        .map(|one| {
            json!({
                "connections": one.connections,
                "requests": one.requests,
                "errors": one.errors,
                "after_a_tenth": memory(&one.early),
                "at_the_end": memory(&one.late),
            })
        })
        .collect();
    json!({
        "machine": facts,
        "load_after": after,
        "rounds": arguments.rounds,
        "requests": arguments.requests,
        "rows": rows,
        "idle": idle,
        "soak": soak,
        "notes": results.notes,
    })
}

fn memory(memory: &Memory) -> Value {
    json!({
        "private_kib": memory.private,
        "descriptors": memory.descriptors,
        "threads": memory.threads,
    })
}

/// How two sides compare, round by round.
struct Ratio {
    median: f64,
    low: f64,
    high: f64,
}

impl Ratio {
    fn of(subject: &[f64], floor: &[f64]) -> Self {
        let rounds: Vec<f64> = subject
            .iter()
            .zip(floor)
            .map(|(subject, floor)| subject / floor)
            .collect();
        Self {
            median: quantile(&rounds, 0.5),
            low: quantile(&rounds, 0.25),
            high: quantile(&rounds, 0.75),
        }
    }
}

/// The value below which that share of all lies; of two middle ones the mean.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let place = real(u64::try_from(last).unwrap_or(0)) * share;
    let nearest = |place: f64| {
        sorted
            .iter()
            .zip(0_u32..)
            .find(|(_, index)| f64::from(*index) >= place)
            .map_or(f64::NAN, |(value, _)| *value)
    };
    f64::midpoint(nearest(place.floor()), nearest(place.ceil()))
}
