//! Flags that other builders have and this version has not, with what to do instead.

/// Flags of `docker build`, `docker buildx build`, `podman build` and `buildah build`.
const BUILD: &[(&[&str], &str)] = &[
    (&["--cache-ttl"], "leave it out: what is known does not grow old"),
    (&["--layers"], "leave it out: every step is always cached"),
    (&["--volume", "-v"], "use COPY: steps see only the image and the context"),
    (&["--env", "--unsetenv"], "use ENV in the Dockerfile"),
    (&["--unsetlabel", "--inherit-labels"], "use LABEL in the Dockerfile: `LABEL NAME=` empties one"),
    (
        &["--unsetannotation", "--inherit-annotations", "--created-annotation"],
        "leave it out: only what `--annotation` says is annotated",
    ),
    (&["--layer-label", "--stage-labels", "--identity-label"], "use `--label`"),
    (&["--omit-history"], "use `--source-date-epoch` for images that are the same every time"),
    (&["--save-stages"], "build each stage with `--target STAGE -t NAME`"),
    (
        &["--pull-always", "--pull-never"],
        "use `--pull`, or leave it out: a base image in the local store is used as it is",
    ),
    (&["--source-policy-file"], "pin images in the Dockerfile: `FROM NAME@sha256:…`"),
    (&["--cpp-flag"], "run the preprocessor first: `cpp -P Containerfile.in | rbuild build -f - .`"),
    (&["--transient-run-mounts"], "use `RUN --mount` in the Dockerfile"),
    (&["--compat-volumes", "--disable-compression", "--logsplit", "--stdin"], "leave it out; it is not needed here"),
    (
        &[
            "--sbom-image-output",
            "--sbom-image-purl-output",
            "--sbom-merge-strategy",
            "--sbom-output",
            "--sbom-purl-output",
            "--sbom-scanner-command",
            "--sbom-scanner-image",
        ],
        "leave it out, and run the scanner on the image: `-o type=oci,dest=FILE`",
    ),
    (&["--from"], "use an ARG before FROM, and `--build-arg`"),
    (&["--rewrite-timestamp"], "leave it out: with `--source-date-epoch` the times of files are set too"),
    (&["--builder", "--policy"], "leave it out: there is no daemon"),
    (
        &[
            "--runtime",
            "--runtime-flag",
            "--userns-gid-map",
            "--userns-gid-map-group",
            "--userns-uid-map",
            "--userns-uid-map-user",
            "--cgroupns",
            "--ipc",
            "--pid",
            "--uts",
        ],
        "leave it out: every step runs in a sandbox",
    ),
    (&["--skip-unused-stages"], "leave it out: only the stages that the target needs are built"),
    (&["--squash", "--squash-all"], "leave it out: each step that changes files makes one layer"),
    (&["--format"], "use `-o type=oci,dest=FILE` or `-o type=docker,dest=FILE`"),
    (
        &["--arch", "--os", "--os-feature", "--os-version", "--variant", "--all-platforms", "--manifest"],
        "leave it out: only the platform of this machine is built for",
    ),
    (&["--iidfile-raw"], "use `--iidfile`"),
    (&["--logfile"], "redirect standard error"),
    (&["--retry", "--retry-delay"], "leave it out: what a registry asks to be tried again is tried again"),
    (&["--device"], "ask for it in the file, `RUN --device=NAME`, and allow it with `--allow device`"),
    (
        &[
            "--cap-add",
            "--cap-drop",
            "--security-opt",
            "--http-proxy",
            "--no-hostname",
            "--no-hosts",
            "--group-add",
            "--sign-by",
            "--cw",
            "--hooks-dir",
            "--decryption-key",
        ],
        "leave it out; nothing takes its place yet",
    ),
];

/// Flags of `docker run` and `podman run`.
const RUN: &[(&[&str], &str)] = &[
    (&["--detach", "-d"], "leave it out: the command runs in the foreground"),
    (&["--mount"], "use `-v SOURCE:TARGET`"),
    (&["--env-file"], "use `-e` once per variable"),
    (
        &[
            "--name",
            "--privileged",
            "--cap-add",
            "--cap-drop",
            "--device",
            "--gpus",
            "--init",
            "--read-only",
            "--restart",
            "--security-opt",
            "--tmpfs",
            "--platform",
            "--pull",
            "--label",
            "-l",
            "--publish-all",
            "-P",
        ],
        "leave it out; nothing takes its place yet",
    ),
];

/// Flags of `podman login` and `podman logout`.
const LOGIN: &[(&[&str], &str)] = &[
    (&["--compat-auth-file"], "use `--authfile FILE`: rbuild reads and writes the same files as docker and podman"),
    (&["--secret"], "give the password with `--password-stdin`"),
    (&["--verbose", "-v"], "leave it out: it is always said where credentials are kept"),
];

/// Flags of `docker push`, `docker pull`, `podman push` and `podman pull`.
const TRANSFER: &[(&[&str], &str)] = &[
    (&["--disable-content-trust", "--remove-signatures", "--signature-policy"], "leave it out: nothing is signed here"),
    (&["--compress"], "leave it out: layers are always compressed, see `--compression`"),
    (&["--retry", "--retry-delay"], "leave it out: what a registry asks to be tried again is tried again"),
    (&["--arch", "--os", "--variant"], "use `--platform OS/ARCH[/VARIANT]`"),
    (&["--policy"], "leave it out: what is here already is not fetched again"),
    (&["--rm"], "use `rbuild rmi NAME` afterwards"),
    (
        &["--sign-by", "--sign-by-sigstore", "--sign-by-sigstore-private-key", "--sign-passphrase-file"],
        "leave it out; nothing takes its place yet",
    ),
    (&["--encrypt-layer", "--encryption-key", "--decryption-key"], "leave it out; nothing takes its place yet"),
];

/// Flags of `docker inspect` and `podman inspect`.
const INSPECT: &[(&[&str], &str)] = &[
    (&["--type", "-t"], "leave it out: only images are looked at"),
    (&["--size", "-s"], "leave it out: the size is always told"),
];

/// Flags of `docker buildx imagetools`.
const IMAGETOOLS: &[(&[&str], &str)] = &[(&["--builder"], "leave it out: there is no daemon")];

/// What to do instead of a flag that is known elsewhere.
pub fn instead_of(verb: &str, flag: &str) -> Option<&'static str> {
    let table = match verb {
        "build" => BUILD,
        "run" => RUN,
        "login" | "logout" => LOGIN,
        "push" | "pull" => TRANSFER,
        "inspect" => INSPECT,
        "imagetools create" | "imagetools inspect" => IMAGETOOLS,
        _ => return None,
    };
    table.iter().find(|(flags, _)| flags.contains(&flag)).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn no_flag_is_both_supported_and_called_unsupported() {
        for verb in super::super::Cli::command().get_subcommands() {
            for argument in verb.get_arguments() {
                let long = argument.get_long().map(|long| format!("--{long}"));
                let short = argument.get_short().map(|short| format!("-{short}"));
                for flag in long.iter().chain(&short) {
                    assert_eq!(super::instead_of(verb.get_name(), flag), None, "{} {flag}", verb.get_name());
                }
            }
        }
    }

    /// The flags of `docker buildx build`, from its reference.
    const BUILDX: &str = "add-host allow annotation attest build-arg build-context builder cache-from cache-to call \
        cgroup-parent check file iidfile label load metadata-file network no-cache no-cache-filter output platform \
        policy progress provenance pull push quiet resource sbom secret shm-size ssh tag target ulimit";

    /// The flags of `podman build` and `buildah build`, from their manuals.
    const PODMAN: &str = "add-host all-platforms annotation arch authfile build-arg build-arg-file build-context \
        cache-from cache-to cache-ttl cap-add cap-drop cert-dir cgroup-parent cgroupns compat-volumes compress \
        cpp-flag cpu-period cpu-quota cpu-shares cpuset-cpus cpuset-mems created-annotation creds cw \
        decryption-key device disable-compression dns dns-option dns-search env file force-rm format from \
        group-add help hooks-dir http-proxy identity-label ignorefile iidfile iidfile-raw inherit-annotations \
        inherit-labels ipc isolation jobs label layer-label layers logfile logsplit manifest memory memory-swap \
        metadata-file network no-cache no-hostname no-hosts omit-history os os-feature os-version output pid \
        platform pull pull-always pull-never quiet retry retry-delay rewrite-timestamp rm runtime runtime-flag save-stages \
        sbom sbom-image-output sbom-image-purl-output sbom-merge-strategy sbom-output sbom-purl-output \
        sbom-scanner-command sbom-scanner-image secret security-opt shm-size sign-by skip-unused-stages \
        source-date-epoch source-policy-file squash squash-all ssh stage-labels stdin tag target timestamp tls-verify \
        transient-run-mounts ulimit unsetannotation unsetenv unsetlabel userns userns-gid-map userns-gid-map-group \
        userns-uid-map userns-uid-map-user uts variant volume";

    #[test]
    fn every_flag_of_buildx_podman_and_buildah_is_supported_or_has_advice() {
        let mut command = super::super::Cli::command();
        command.build();
        let build = command.find_subcommand("build").expect("there is a verb `build`");
        for flag in BUILDX.split_whitespace().chain(PODMAN.split_whitespace()) {
            let supported = build.get_arguments().any(|argument| argument.get_long() == Some(flag));
            assert!(supported || super::instead_of("build", &format!("--{flag}")).is_some(), "{flag}");
        }
    }
}
