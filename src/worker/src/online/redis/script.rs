//! The atomic steps inside Redis, and the layout of their arguments.

use crate::online::store::{Applied, Change, View};
use backfill_core::feast;
use redis::Cmd;
use std::sync::LazyLock;

/// How many entities one call may change: a call takes well below a millisecond of the server's time.
pub const ENTITIES_PER_CALL: usize = 64;

/// How many bytes of values one call may carry, for the same reason.
pub const BYTES_PER_CALL: usize = 128 << 10;

/// The hash with one fence per view; on a cluster one in every slot.
pub const FENCES: &str = "_fsb:fence";

/// Stands for a field that is not there. No `google.protobuf.Timestamp` looks like this.
pub const ABSENT: &[u8] = b"-";

/// Changes entities of one slot.
///
/// The first line makes Redis refuse the script *before* it runs when memory is out, so that no row is half written.
/// KEYS: the fences, then the entities. ARGV: generation, fence, seconds a key lives (0: for ever), number of features, number of
/// retired features, field of the event time, field of the marker, whether rows are compared first (1); the fields of the features
/// and of the retired ones; then for each entity: event time and marker as seen, and the new event time, marker and all values, or
/// `-` to remove. Returns for each entity 0 unchanged, 1 written, 2 removed, 3 moved.
const CHANGE: &str = r"#!lua
local KEYS, ARGV = KEYS, ARGV
local call, ttl, features, retired = redis.call, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local fence = call('HGET', KEYS[1], ARGV[2])
if fence and tonumber(fence) > tonumber(ARGV[1]) then return redis.error_reply('SUPERSEDED ' .. fence) end
local time_field, marker_field, compares = ARGV[6], ARGV[7], ARGV[8] == '1'
local width = 2 * (features + 2)
local set, all, gone = {}, {time_field, marker_field}, {}
for i = 1, features do set[2 * i + 3] = ARGV[8 + i]; all[2 + i] = ARGV[8 + i] end
for i = 1, retired do gone[i] = ARGV[8 + features + i]; all[2 + features + i] = gone[i] end
set[1] = time_field
set[3] = marker_field
local function differs(now, at)
  for i = 1, features do if now[2 + i] ~= ARGV[at + i] then return true end end
  for i = 1, retired do if now[2 + features + i] then return true end end
  return false
end
local at, out = 8 + features + retired, {}
for entity = 2, #KEYS do
  local key, time = KEYS[entity], ARGV[at + 3]
  local now
  if compares then now = call('HMGET', key, unpack(all)) else now = call('HMGET', key, time_field, marker_field) end
  local code
  if (now[1] or '-') ~= ARGV[at + 1] or (now[2] or '-') ~= ARGV[at + 2] then code = 3
  elseif time == '-' then
    call('HDEL', key, unpack(all))
    code = 2
  elseif compares and time == now[1] and not differs(now, at + 4) then code = 0
  else
    set[2] = time
    set[4] = ARGV[at + 4]
    for i = 1, features do set[2 * i + 4] = ARGV[at + 4 + i] end
    local known = ttl > 0 and call('EXISTS', key) == 1
    call('HSET', key, unpack(set, 1, width))
    if retired > 0 then call('HDEL', key, unpack(gone)) end
    if known then call('EXPIRE', key, ttl, 'GT') elseif ttl > 0 then call('EXPIRE', key, ttl) end
    code = 1
  end
  out[entity - 1] = code
  if time == '-' then at = at + 3 else at = at + 4 + features end
end
return out
";

/// Raises a fence and returns it. KEYS: the fences. ARGV: generation, fence.
const RAISE: &str = r"#!lua
local fence = redis.call('HGET', KEYS[1], ARGV[2])
if fence and tonumber(fence) >= tonumber(ARGV[1]) then return fence end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[1])
return ARGV[1]
";

/// A script and its name in Redis' cache.
pub struct Script {
    /// The program.
    pub code: &'static str,
    /// The SHA-1 of the program.
    pub hash: String,
}

impl Script {
    fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }
}

/// Changes entities of one slot.
pub static CHANGE_SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(CHANGE));

/// Raises the fence of one slot.
pub static RAISE_SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(RAISE));

/// What all calls of one view share.
#[derive(Debug)]
pub struct Layout {
    /// The project, which ends every key.
    pub project: String,
    /// The view's entry among the fences.
    pub fence: String,
    /// The field of the event time.
    pub time: String,
    /// The field of the marker, see [`Marker`].
    pub marker: String,
    /// The fields of the features.
    pub features: Vec<[u8; 4]>,
    retired: Vec<[u8; 4]>,
    key_ttl_seconds: u64,
}

impl Layout {
    /// The layout of a view.
    pub fn new(view: &View, key_ttl_seconds: Option<u64>) -> Self {
        let fields = |names: &[String]| names.iter().map(|name| feast::field(&view.name, name)).collect::<Vec<_>>();
        let features = fields(&view.features);
        let retired = fields(&view.retired).into_iter().filter(|field| !features.contains(field)).collect();
        Self {
            project: view.project.clone(),
            fence: format!("{}/{}", view.project, view.name),
            time: feast::timestamp_field(&view.name),
            marker: format!("_fsb:{}", view.name),
            features,
            retired,
            key_ttl_seconds: key_ttl_seconds.unwrap_or(0),
        }
    }

    /// The call that performs `changes`, all of one slot whose fences are in `fences`. With `compares`, a row that is there
    /// already byte for byte is left alone.
    pub fn change(&self, generation: u64, fences: &str, compares: bool, changes: &[&Change]) -> Cmd {
        let arguments = 12 + changes.len() * (self.features.len() + 5);
        let size = changes.iter().map(|change| 96 + change.row.as_ref().map_or(0, |row| row.size())).sum();
        let mut call = Cmd::with_capacity(arguments, size);
        call.arg("EVALSHA").arg(&CHANGE_SCRIPT.hash).arg(changes.len() + 1).arg(fences);
        for change in changes {
            call.arg(feast::redis_key(&change.key, &self.project));
        }
        call.arg(generation).arg(&self.fence).arg(self.key_ttl_seconds).arg(self.features.len()).arg(self.retired.len());
        call.arg(&self.time).arg(&self.marker).arg(u8::from(compares));
        for field in self.features.iter().chain(&self.retired) {
            call.arg(&field[..]);
        }
        let mut time = Vec::with_capacity(16);
        for change in changes {
            let (seen_time, seen_marker) = split_token(&change.token);
            call.arg(seen_time.unwrap_or(ABSENT)).arg(seen_marker.unwrap_or(ABSENT));
            match &change.row {
                None => {
                    call.arg(ABSENT);
                }
                Some(row) => {
                    time.clear();
                    feast::encode_timestamp(row.ts.0, &mut time);
                    call.arg(&time[..]).arg(Marker { generation, digest: row.digest(), time: &time }.bytes());
                    row.values().for_each(|value| {
                        call.arg(value);
                    });
                }
            }
        }
        call
    }

    /// The call that raises the fence of one slot.
    pub fn raise(&self, generation: u64, fences: &str) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&RAISE_SCRIPT.hash).arg(1).arg(fences).arg(generation).arg(&self.fence);
        call
    }
}

/// What a backfill leaves beside its row: the row is ours while the marker carries the same time as the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker<'a> {
    /// Who wrote it.
    pub generation: u64,
    /// Of the row that was written: a new row of another digest need not be compared value by value.
    pub digest: u64,
    /// The bytes of the event time that was written with it.
    pub time: &'a [u8],
}

impl<'a> Marker<'a> {
    /// As it stands in its field.
    pub fn bytes(&self) -> Vec<u8> {
        [&self.generation.to_le_bytes(), &self.digest.to_le_bytes(), self.time].concat()
    }

    /// What a field says; `None` for bytes that are no marker.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (generation, rest) = bytes.split_first_chunk()?;
        let (digest, time) = rest.split_first_chunk()?;
        Some(Self { generation: u64::from_le_bytes(*generation), digest: u64::from_le_bytes(*digest), time })
    }
}

/// Whether the row may be there already, byte for byte, judging from what was seen.
pub fn may_stand(change: &Change) -> bool {
    let (Some(row), (Some(time), marker)) = (&change.row, split_token(&change.token)) else { return false };
    if feast::decode_timestamp(time) != Some(row.ts.0) {
        return false;
    }
    // A row that ingestion wrote last has to be compared; one of ours only when the digests agree.
    match marker.and_then(Marker::read).filter(|marker| marker.time == time) {
        Some(ours) => ours.digest == row.digest(),
        None => true,
    }
}

/// Event time and marker as they were seen, in one token.
pub fn token(time: Option<&[u8]>, marker: Option<&[u8]>) -> Box<[u8]> {
    let len = |field: Option<&[u8]>| field.map_or(u32::MAX, |bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX - 1));
    [&len(time).to_le_bytes(), time.unwrap_or_default(), &len(marker).to_le_bytes(), marker.unwrap_or_default()].concat().into()
}

fn split_token(token: &[u8]) -> (Option<&[u8]>, Option<&[u8]>) {
    fn take(bytes: &[u8]) -> (Option<&[u8]>, &[u8]) {
        let (len, rest) = bytes.split_first_chunk::<4>().expect("tokens are made by this module");
        match u32::from_le_bytes(*len) {
            u32::MAX => (None, rest),
            len => {
                let (field, rest) = rest.split_at(len as usize);
                (Some(field), rest)
            }
        }
    }
    let (time, rest) = take(token);
    (time, take(rest).0)
}

/// What a code of the script says.
pub fn applied(code: i64) -> Applied {
    match code {
        0 => Applied::Unchanged,
        1 => Applied::Written,
        2 => Applied::Removed,
        _ => Applied::Moved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_tell_an_absent_field_from_an_empty_one() {
        for (time, marker) in [(None, None), (Some(&b""[..]), None), (Some(&b"ab"[..]), Some(&b""[..])), (None, Some(&b"m"[..]))]
        {
            assert_eq!(split_token(&token(time, marker)), (time, marker));
        }
    }
}
