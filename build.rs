//! Compiles the slice of Envoy's protocol under `proto/`.  protox does it in Rust: nobody needs protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    #[cfg(feature = "server")]
    protocol::compile()?;
    Ok(())
}

#[cfg(feature = "server")]
mod protocol {
    use std::error::Error;
    use std::path::PathBuf;

    use prost::Message;

    pub fn compile() -> Result<(), Box<dyn Error>> {
        let slice = protox::compile(["proto/ext_authz.proto"], ["proto"])?;
        // Client text is bytes; requests are read by hand (src/ext_authz/codec/request.rs), and tests hold that against this.
        prost_build::Config::new().bytes(["."]).compile_fds(slice)?;

        let reflection = protox::compile(["proto/reflection.proto"], ["proto"])?;
        let folder = PathBuf::from(std::env::var("OUT_DIR")?);
        std::fs::write(folder.join("reflection.bin"), reflection.encode_to_vec())?;
        Ok(())
    }
}
