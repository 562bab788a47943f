//! Turns `proto/` into Rust: the messages and services, and a table of the
//! field names and types, by which raw JSON bodies are checked.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;

const FILES: [&str; 3] = [
    "aegis/v1/common.proto",
    "aegis/v1/identity.proto",
    "aegis/v1/broker.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let descriptors = protox::compile(FILES, ["proto"])?;

    let set = out.join("aegis.binpb");
    fs::write(&set, descriptors.encode_to_vec())?;
    // Its own would watch the set that is written here, newer than every build it began.
    connectrpc_build::Config::new()
        .emit_rerun_directives(false)
        .descriptor_set(&set)
        .files(&FILES)
        .include_file("_connectrpc.rs")
        .compile()?;

    // (service, method, input message) and (message, [(name, JSON name, repeated, type)]).
    let mut methods = String::new();
    let mut messages = String::new();
    for file in &descriptors.file {
        if file.package() != "aegis.v1" {
            continue;
        }
        for service in &file.service {
            for method in &service.method {
                writeln!(
                    methods,
                    "    (\"/aegis.v1.{}/{}\", \"{}\"),",
                    service.name(),
                    method.name(),
                    method.input_type().trim_start_matches('.'),
                )?;
            }
        }
        for message in &file.message_type {
            writeln!(messages, "    (\"aegis.v1.{}\", &[", message.name())?;
            for field in &message.field {
                // 3 is LABEL_REPEATED; the types are numbered in descriptor.proto.
                let repeated = field.label == Some(3);
                let kind = match field.r#type {
                    Some(3) => "Kind::Int64".to_owned(),
                    Some(5) => "Kind::Int32".to_owned(),
                    Some(8) => "Kind::Bool".to_owned(),
                    Some(9) => "Kind::Text".to_owned(),
                    Some(12) => "Kind::Bytes".to_owned(),
                    Some(11) => {
                        format!(
                            "Kind::Message(\"{}\")",
                            field.type_name().trim_start_matches('.')
                        )
                    }
                    other => return Err(format!("no rule for type {other:?}").into()),
                };
                writeln!(
                    messages,
                    "        Field {{ number: {}, name: \"{}\", json: \"{}\", repeated: {repeated}, kind: {kind} }},",
                    field.number(),
                    field.name(),
                    field.json_name(),
                )?;
            }
            writeln!(messages, "    ]),")?;
        }
    }
    fs::write(
        out.join("schema.rs"),
        format!(
            "static METHODS: &[(&str, &str)] = &[\n{methods}];\n\
             static MESSAGES: &[(&str, &[Field])] = &[\n{messages}];\n"
        ),
    )?;
    Ok(())
}
