//! The newest row of each entity that the decision needs, reading no more of the table than that.

use crate::delta::DataFile;
use crate::failure::Result;
use crate::online::bucket::{Bucket, Entity};
use crate::online::read::{Reader, Times, reach};
use backfill_core::online::{Decision, EventTime, Rules, decide, kept};

/// What has been read of the entities' rows so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Every row inside the bounds.
    Inside,
    /// Nothing.
    Nothing,
}

impl Known {
    /// The rows behind the start that have not been read yet.
    fn tail(self, rules: &Rules) -> Option<Times> {
        match self {
            Self::Inside => rules.bounds.stop.map(|stop| Times { from: Some(stop), to: None }),
            Self::Nothing => Some(Times { from: rules.bounds.start, to: None }),
        }
    }
}

/// The decision for an entity as far as it is known.
pub fn decision(rules: &Rules, entity: &Entity) -> Decision {
    decide(rules, entity.seen.as_ref().and_then(|seen| seen.current), entity.before, entity.newest.ts)
}

/// Completes `newest` of every entity whose decision depends on it, and returns how many rows were read for that.
///
/// First the rows behind what is known, then those before the start, nearest first, until every entity has been found.
pub async fn find(reader: &Reader<'_>, rules: &Rules, bucket: &mut Bucket, known: Known) -> Result<u64> {
    let mut looked_up = 0;
    let head = rules.bounds.start.map(|start| EventTime(start.0 - 1));
    let mut open: Vec<bool> = vec![false; bucket.entities.len()];
    if let Some(tail) = known.tail(rules) {
        mark_open(rules, bucket, Some(EventTime(i64::MAX)), &mut open);
        let (files, _) = reader.files(tail);
        looked_up += read(reader, bucket, &open, tail, files).await?;
    } else {
        open.fill(true);
    }
    let Some(latest) = head else { return Ok(looked_up) };
    for (entity, open) in bucket.entities.iter().zip(&mut open) {
        *open &= still_open(rules, entity, latest);
    }
    look_back(reader, rules, bucket, &mut open, latest, &mut looked_up).await?;
    Ok(looked_up)
}

/// Reads files before the start, the latest first and twice as many each time.
async fn look_back(
    reader: &Reader<'_>,
    rules: &Rules,
    bucket: &mut Bucket,
    open: &mut [bool],
    start: EventTime,
    looked_up: &mut u64,
) -> Result<()> {
    let times = Times { from: None, to: Some(EventTime(start.0 + 1)) };
    let (mut files, _) = reader.files(times);
    let last = |file: &DataFile| reach(file).map_or(start, |(_, last)| last.min(start));
    files.sort_by_key(last);
    let mut chunk = 1;
    while open.contains(&true) && !files.is_empty() {
        let next: Vec<DataFile> = files.split_off(files.len().saturating_sub(chunk));
        *looked_up += read(reader, bucket, open, times, next).await?;
        chunk *= 2;
        let Some(latest) = files.last().map(last) else { break };
        for (entity, open) in bucket.entities.iter().zip(open.iter_mut()) {
            *open &= still_open(rules, entity, latest);
        }
    }
    Ok(())
}

fn mark_open(rules: &Rules, bucket: &Bucket, latest: Option<EventTime>, open: &mut [bool]) {
    for (entity, open) in bucket.entities.iter().zip(open) {
        *open = kept(rules, current(entity), entity.before, entity.newest.ts, latest).is_none();
    }
}

/// Whether a row at `latest` or before, not read yet, may matter.
fn still_open(rules: &Rules, entity: &Entity, latest: EventTime) -> bool {
    let found = entity.newest.ts.is_some_and(|newest| latest < newest);
    let expired = rules.expired.is_some_and(|expired| latest <= expired);
    !found && !expired && kept(rules, current(entity), entity.before, entity.newest.ts, Some(latest)).is_none()
}

fn current(entity: &Entity) -> Option<backfill_core::online::Current> {
    entity.seen.as_ref().and_then(|seen| seen.current)
}

async fn read(reader: &Reader<'_>, bucket: &mut Bucket, open: &[bool], times: Times, files: Vec<DataFile>) -> Result<u64> {
    if !open.contains(&true) {
        return Ok(0);
    }
    let Bucket { index, entities } = bucket;
    reader
        .each(times, Some(files), &mut |key, ts| {
            if let Some(place) = index.get(key).map(|place| *place as usize).filter(|place| open[*place]) {
                entities[place].newest.add(ts);
            }
            Ok(())
        })
        .await
}
