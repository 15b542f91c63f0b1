//! Schemas of the fields: how long, of which characters, and the rules that the API server evaluates.
//!
//! Rules say the same as [`crate::time`] and [`crate::request`], which judge manifests that no API server has seen. Every string,
//! list and map is bounded: the server adds up the worst cost of all rules and refuses a resource that may become too expensive.

use crate::time::{DURATION_DAYS_MAX, TimeFault};
use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// A DNS label that begins with a letter.
pub const LABEL: &str = "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$";

/// Of the root of every resource: its name becomes part of other names and of paths.
pub const NAME_RULE: &str = "self.metadata.name.matches('^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$')";

/// The words for it.
pub const NAME_MESSAGE: &str =
    "metadata.name is not a DNS label: write at most 63 of a-z, 0-9 and -, beginning with a letter and not ending with -";

/// Text of at most so many characters, in one line or many.
pub fn text<const MAX: usize>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": MAX})
}

/// The same, and not empty.
pub fn filled_text<const MAX: usize>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": MAX})
}

/// The name of an object of this group.
pub fn label(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": LABEL})
}

/// The name of a cluster template, in any case.
pub fn template_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[A-Za-z]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?$"})
}

/// The name of an object of Kubernetes itself: Secrets, claims, classes.
pub fn object_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"})
}

/// A list of such names.
pub fn object_names(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 16, "items": object_name(generator)})
}

/// The key of an entry of a Secret.
pub fn secret_key(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[-_A-Za-z0-9][-._A-Za-z0-9]*$"})
}

/// A column or a source: safe to quote in every engine.
pub fn column(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"})
}

/// A Feast view or project.
pub fn view(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z_][A-Za-z0-9_-]*$"})
}

/// A relative folder.
pub fn folder(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 512, "pattern": "^[A-Za-z0-9._=-]+(/[A-Za-z0-9._=-]+)*$",
        "x-kubernetes-validations": [rule("!self.matches('(^|/)[.][.]?(/|$)')", "holds . or ..; name a folder below the store's")]
    })
}

/// A file below the store's volume.
pub fn file(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "maxLength": 512, "pattern": "^/store(/[A-Za-z0-9._=-]+)+$",
        "x-kubernetes-validations": [rule("!self.matches('/[.][.]?(/|$)')", "holds . or ..; name a file below /store/")]
    })
}

/// A comment of one line.
pub fn comment(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "maxLength": 1024,
        "x-kubernetes-validations": [rule("!self.matches('\\\\p{Cc}')", "holds a control character; write it in one line")]
    })
}

/// The name of a run.
pub fn run_id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9._:-]+$"})
}

/// One of the object stores, or the store's volume.
pub fn uri(_: &mut SchemaGenerator) -> Schema {
    let place = "^(s3://[A-Za-z0-9._-]+|gs://[A-Za-z0-9._-]+|abfss://[A-Za-z0-9-]+@[A-Za-z0-9.-]+|file:///store)(/.*)?$";
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 1024,
        "x-kubernetes-validations": [
            rule("self.matches('^(s3|gs|abfss|file)://')", "has an unknown scheme; write s3://, gs://, abfss:// or file:///store/"),
            rule(
                &format!("!self.matches('^(s3|gs|abfss|file)://') || self.matches('(?s){place}')"),
                "names no bucket or container, or a file outside of file:///store/"
            ),
            rule(
                r#"!self.matches('[\\pZ\\p{Cc}?#*%\\\\\\[\\]{}"\']')"#,
                "holds white space or one of ? # * % \\ [ ] { } \" '; name a file or a folder"
            ),
            rule("!self.matches('(?s)://.*(//|/[.][.]?(/|$))')", "holds an empty part, . or ..; name a file or a folder"),
        ]
    })
}

/// A time as users give it.
pub fn time(_: &mut SchemaGenerator) -> Schema {
    let day = "-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])";
    let clock = "[T ]([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)([.][0-9]+)?";
    let leap_day = "^([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29";
    let fault = |condition: &str, fault: TimeFault| rule(condition, &fault.to_string());
    json_schema!({
        "type": "string", "maxLength": 64,
        "x-kubernetes-validations": [
            fault(&format!("self.matches('(?s)^[0-9]{{4,}}{day}({clock}( *[A-Za-z+-].*)?)?$')"), TimeFault::Format),
            fault(
                &format!("!self.matches('^[0-9]{{4,}}{day}{clock} *[A-Za-z+-]') || self.matches('^[0-9]{{4,}}{day}{clock}Z$')"),
                TimeFault::Zone
            ),
            fault("!self.matches('[T ][0-9]{2}:[0-9]{2}:60')", TimeFault::LeapSecond),
            fault("!self.matches(':[0-9]{2}[.][0-9]{4}')", TimeFault::TooFine),
            fault("!self.matches('^[0-9]{4,}-') || self.matches('^(19|[2-9][0-9])[0-9]{2}-')", TimeFault::Year),
            fault(
                &format!(
                    "!self.matches('^[0-9]{{4,}}-(02-3|(04|06|09|11)-31)') && (!self.matches('^[0-9]{{4,}}-02-29') || self.matches('{leap_day}'))"
                ),
                TimeFault::NoSuchDay
            ),
        ]
    })
}

/// The rule that `startTime` lies before `stopTime`, for an object with both. Times that are not well formed have rules of their
/// own. Well-formed ones are brought to one length, at which they sort as text. Written out without lists: the server knows how long
/// a field may become, but not an element of a list, and refuses a rule of unknown cost.
pub fn start_before_stop() -> Rule {
    let [start, stop] = ["self.startTime", "self.stopTime"];
    let well_formed = |time: &str| {
        format!("{time}.matches('^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([T ][0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}([.][0-9]{{1,3}})?Z?)?$')")
    };
    let one_form = |time: &str| {
        format!(
            "({time}.size() == 10 ? {time} + 'T00:00:00.000' : \
             {time}.replace(' ', 'T').replace('Z', '') + ({time}.contains('.') ? '00' : '.000')).substring(0, 23)"
        )
    };
    Rule::new(format!(
        "!has({start}) || !has({stop}) || !{} || !{} || {} < {}",
        well_formed(start),
        well_formed(stop),
        one_form(start),
        one_form(stop)
    ))
    .message("startTime must be before stopTime")
}

/// The fields of a backfill that never change, but for `cancel`, `mode` and `runId`, which have rules of their own, and `suspend`,
/// `comment` and `ttlSecondsAfterFinished`, which may always be changed.
const IMMUTABLE: [&str; 13] = [
    "featureSet",
    "reset",
    "startTime",
    "stopTime",
    "undo",
    "clusterTemplate",
    "sources",
    "transformation",
    "stores",
    "guards",
    "onlineUnknown",
    "retries",
    "deadline",
];

/// Whether the update of a spec asks for another run.
const ANOTHER_RUN: &str = "(has(self.runId) != has(oldSelf.runId) || (has(self.runId) && self.runId != oldSelf.runId))";

/// The rule of the immutable spec. It stands on the spec, not on its fields: rules of an optional field are not evaluated when the
/// field is added or removed.
pub fn immutable_backfill() -> Rule {
    let same = |field: &&str| {
        format!("has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})")
    };
    Rule::new(IMMUTABLE.iter().map(same).collect::<Vec<_>>().join(" && ")).message(
        "spec is immutable, except suspend, cancel, comment, ttlSecondsAfterFinished, mode (Plan to Apply) and runId (when the run has \
         ended); create another backfill for another replacement",
    )
}

/// A cancelled run stays cancelled.
pub fn cancel_is_final() -> Rule {
    Rule::new(format!("!has(oldSelf.cancel) || !oldSelf.cancel || (has(self.cancel) && self.cancel) || {ANOTHER_RUN}"))
        .message("cancel cannot be taken back; change runId to run the backfill again")
}

/// A plan may be applied; what is applied is no plan any more.
pub fn mode_moves_on() -> Rule {
    Rule::new(format!(
        "(has(self.mode) ? self.mode : 'Apply') == (has(oldSelf.mode) ? oldSelf.mode : 'Apply') || \
         (has(oldSelf.mode) && oldSelf.mode == 'Plan') || {ANOTHER_RUN}"
    ))
    .message("mode changes from Plan to Apply only; change runId to plan again")
}

/// Another run begins when the one before has ended, or rests as a plan (Ready without Complete). On the root, because it reads the
/// status.
pub fn run_id_after_the_end() -> Rule {
    let another_run = ANOTHER_RUN.replace("elf.runId", "elf.spec.runId");
    Rule::new(format!(
        "!{another_run} || (has(oldSelf.status) && has(oldSelf.status.conditions) && oldSelf.status.conditions.exists(condition, \
         condition.type in ['Complete', 'Failed', 'Ready'] && condition.status == 'True'))"
    ))
    .message("spec.runId changes only when the run has ended (Complete or Failed) or its plan is ready (Planned); cancel it, or wait for it")
}

/// A cron expression of five fields.
pub fn cron(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "maxLength": 128,
        "x-kubernetes-validations": [rule(
            "self.matches('^ *[^ ]+( +[^ ]+){4} *$')",
            "is not a cron expression of five fields (minute hour day-of-month month day-of-week), in UTC"
        )]
    })
}

/// A duration.
pub fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "maxLength": 32,
        "x-kubernetes-validations": [rule(
            "self.matches('^([0-9]{1,10}d)?([0-9]{1,10}h)?([0-9]{1,10}m)?([0-9]{1,10}s)?$') && self.matches('[1-9]')",
            &format!("is not a duration; write for instance 90s, 15m, 1h30m or 2d, more than zero and at most {DURATION_DAYS_MAX}d")
        )]
    })
}

/// A Kubernetes quantity of bytes.
pub fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "maxLength": 32,
        "x-kubernetes-validations": [rule(
            "self.matches('^([0-9]+|[0-9]+[.][0-9]{0,9}|[.][0-9]{1,9})([KMGTPE]i|[kMGTPE]|[eE][0-9]{1,2})?$') && self.matches('[1-9]')",
            "is not a size; write for instance 512Mi, 4Gi or 1.5Gi"
        )]
    })
}

/// Labels, annotations or settings.
pub fn strings<const VALUE_MAX: usize>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "maxProperties": 64, "additionalProperties": {"type": "string", "maxLength": VALUE_MAX}})
}

/// An optional field of one of several words. Needed on each: kube's own rewriting of an optional enum replaces the field's
/// documentation by that of the enum.
pub fn choice<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    T::json_schema(generator)
}

/// The reason or type of a condition: a word, not one of a fixed list, so that an older schema keeps what a newer operator writes.
pub fn word(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z]+$"})
}

fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}
