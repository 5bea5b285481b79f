use super::*;
use crate::options::annotation::annotations;
use crate::options::load::EngineKind;

fn read(text: &str) -> Result<Parsed, Failure> {
    parse(text, Surroundings { stdout_terminal: false, several: false, may_delete: false })
}

#[test]
fn places_are_understood() {
    let archive = |text: &str, format: ArchiveFormat, dest: Dest| {
        let expected = Output::Archive(ArchiveOutput { form: ImageForm::default(), format, dest });
        assert_eq!(read(text).expect(text).output, expected, "{text}");
    };
    let file = |path: &str| Dest::File(path.into());
    archive("type=oci,dest=app.tar", ArchiveFormat::Oci, file("app.tar"));
    archive("dest=app.tar,type=docker", ArchiveFormat::Docker, file("app.tar"));
    archive("type=oci", ArchiveFormat::Oci, Dest::Stdout);
    archive("type=docker,dest=-", ArchiveFormat::Docker, Dest::Stdout);
    archive("type=oci,\"dest=a,b.tar\"", ArchiveFormat::Oci, file("a,b.tar"));
    archive("type=oci,\"dest=a\"\"b\"", ArchiveFormat::Oci, file("a\"b"));
    archive("type=oci,dest=a=b,tar=true", ArchiveFormat::Oci, file("a=b"));
    archive("type=oci,tar=false,dest=layout", ArchiveFormat::Oci, Dest::Layout("layout".into()));
    archive("type=docker,tar=0,dest=layout", ArchiveFormat::Docker, Dest::Layout("layout".into()));
    let tree = |text: &str, dest: TreeDest, split: bool| {
        let expected = Output::Tree(TreeOutput { dest, split });
        assert_eq!(read(text).expect(text).output, expected, "{text}");
    };
    let folder = |path: &str| TreeDest::Folder { path: path.into(), delete: false };
    tree("type=local,dest=out", folder("out"), false);
    tree("type=local,dest=out,mode=copy,platform-split=false", folder("out"), false);
    tree("type=local,dest=out,platform-split=true", folder("out"), true);
    tree("type=tar,dest=-", TreeDest::Tar(None), false);
    tree("type=tar,dest=x.tar,platform-split=1", TreeDest::Tar(Some("x.tar".into())), true);
    tree("out", folder("out"), false);
    tree("-", TreeDest::Tar(None), false);
}

#[test]
fn forms_of_images_are_understood() {
    let check = |text: &str, change: &dyn Fn(&mut ImageForm)| {
        let mut expected = ImageForm::default();
        change(&mut expected);
        let parsed = read(&format!("type=oci,dest=x,{text}")).expect(text);
        assert_eq!(parsed.output.form(), Some(&expected), "{text}");
    };
    let level = |compression, level| Codec::with_level(compression, level).expect("there is such a level");
    check("compression=zstd", &|form| form.codec = Codec::new(Compression::Zstd));
    check("compression=zstd,compression-level=19", &|form| form.codec = level(Compression::Zstd, 19));
    check("compression=zstd,compression-level=0", &|form| form.codec = Codec::new(Compression::Zstd));
    check("compression-level=9", &|form| form.codec = level(Compression::Gzip, 9));
    check("compression=estargz,compression-level=4", &|form| form.codec = level(Compression::Estargz, 4));
    check("compression=uncompressed,compression-level=3", &|form| form.codec = Codec::new(Compression::None));
    check("force-compression=true", &|form| form.force = true);
    check("oci-mediatypes=true,rewrite-timestamp=true,prefer-nondist-layers=false", &|_| ());
    check("oci-mediatypes=false", &|form| form.dialect = Dialect::Docker);
    check("\"name=a,b:1,a\"", &|form| form.names = vec!["a".parse().expect("a name"), "b:1".parse().expect("a name")]);
    let said = |text: &str| annotations(&[text.to_owned()]).expect("an annotation");
    check("annotation.Org.Key=Value", &|form| form.annotations = said("Org.Key=Value"));
    check("annotation-manifest[linux/amd64].a:b=Value", &|form| {
        form.annotations = said("manifest[linux/amd64]:a:b=Value")
    });
    check("annotation[linux/arm64].a=V", &|form| form.annotations = said("manifest[linux/arm64]:a=V"));
    check("annotation-manifest-descriptor.a=Value", &|form| form.annotations = said("manifest-descriptor:a=Value"));
    check("annotation-index.a=1", &|form| form.annotations = said("index:a=1"));
    assert_eq!(read("type=oci,dest=x,source-date-epoch=-7").expect("a time").epoch, Some(-7));
}

#[test]
fn docker_without_a_destination_is_loaded() {
    let check = |text: &str, change: &dyn Fn(&mut LoadOutput)| {
        let mut expected = LoadOutput::default();
        change(&mut expected);
        assert_eq!(read(text).expect(text).output, Output::Load(expected), "{text}");
    };
    let engine = |kind| move |load: &mut LoadOutput| load.wanted.engine = Some(kind);
    check("type=docker", &|_| ());
    check("type=docker,to=docker", &engine(EngineKind::Docker));
    check("type=docker,to=podman", &engine(EngineKind::Podman));
    check("type=docker,context=far", &|load| load.wanted.context = Some("far".into()));
    check("type=docker,context=", &|_| ());
    check("type=docker,to=containerd,namespace=k8s.io,name=a,compression=zstd", &|load| {
        load.wanted = Wanted { engine: Some(EngineKind::Containerd), namespace: Some("k8s.io".into()), context: None };
        load.form.names = vec!["a".parse().expect("a name")];
        load.form.codec = Codec::new(Compression::Zstd);
    });
}

#[test]
fn images_are_understood() {
    let check = |text: &str, change: &dyn Fn(&mut ImageOutput)| {
        let mut expected = ImageOutput { store: true, ..ImageOutput::default() };
        change(&mut expected);
        assert_eq!(read(text).expect(text).output, Output::Image(expected), "{text}");
    };
    let push = Push::default();
    check("type=image", &|_| ());
    check("type=image,push=false", &|_| ());
    check("type=image,push=true", &|image| image.push = Some(push));
    check("type=image,push=", &|image| image.push = Some(push));
    check("type=registry", &|image| image.push = Some(push));
    check("type=registry,registry.insecure=true", &|image| image.push = Some(Push { insecure: true, ..push }));
    check("type=registry,push-by-digest=true,name=r.example/a", &|image| {
        image.push = Some(Push { by_digest: true, ..push });
        image.form.names = vec!["r.example/a".parse().expect("a name")];
    });
    check("type=image,store=false,unpack=true,name-canonical=true", &|image| {
        (image.store, image.unpack, image.canonical) = (false, true, true);
    });
    check("type=image,dangling-name-prefix=r/a,danging-name-empty-only=true", &|image| {
        image.dangling = Some(("r/a".parse().expect("a name"), true));
    });
}

#[test]
fn what_is_no_output_is_refused_with_advice() {
    let check = |text: &str, expected: &str| {
        let failure = read(text).expect_err(text);
        let problem = &failure.problems[0];
        let said = format!("{} / {}", problem.message, problem.help.clone().unwrap_or_default());
        assert!(said.contains(expected), "{text}: {said}");
    };
    check("type=oic,dest=x", "did you mean `oci`?");
    check("type=cacheonly", "leave out `-o` and `-t`");
    check("type=docker,to=dokcer", "`dokcer` is none of docker, podman, containerd");
    check("type=docker,to=podman,context=far", "`context` is of docker, not of podman");
    check("type=docker,to=docker,namespace=k8s.io", "`namespace` is of containerd, not of docker");
    check("type=docker,context=far,namespace=k8s.io", "`context` is of docker, and `namespace` of containerd");
    check("type=docker,dest=x,to=podman", "it is for type=docker without dest");
    check("type=docker,push=true", "it is for type=image");
    check("type=local", "there is no folder");
    check("type=local,dest=-", "cannot go to standard output");
    check("type=oci,tar=false", "cannot go to standard output");
    check("type=oci,tar=false,dest=-", "cannot go to standard output");
    check("type=oci,tar=maybe,dest=x", "neither true nor false");
    check("type=oci,dest=", "`dest` is empty");
    check("type=oci,dst=x", "did you mean `dest`?");
    check("type=oci,dest=x,compresion=zstd", "did you mean `compression`?");
    check("type=oci,dest=x,compression=zst", "did you mean `zstd`?");
    check("type=oci,dest=x,compression=zstd,compression-level=23", "zstd has no level 23: 0 to 22 is expected");
    check("type=oci,dest=x,compression-level=x", "is no number");
    check("type=oci,dest=x,push=true", "it is for type=image");
    check("type=oci,dest=x,mode=delete", "it is for type=local");
    check("type=local,dest=x,compression=zstd", "it is for an image");
    check("type=local,dest=x,annotation.a=1", "annotations are for an image");
    check("type=local,dest=x,mode=delete", "--allow buildx.local.delete");
    check("type=local,dest=x,mode=move", "neither copy nor delete");
    check("type=local,dest=x,attestation-prefix=y", "no attestations are written to folders");
    check("type=oci,dest=x,oci-mediatypes=false,compression=zstd", "Docker's media types know no compression=zstd");
    check("type=oci,dest=x,oci-mediatypes=false,compression=estargz", "know no compression=estargz");
    check("type=oci,dest=x,oci-mediatypes=false,annotation.a=1", "know no annotations");
    check("type=oci,dest=x,prefer-nondist-layers=true", "`prefer-nondist-layers=true` is not supported");
    check("type=oci,dest=x,oci-artifact=false", "`oci-artifact=false` is not supported");
    check("type=oci,dest=x,attestation-inline=false", "`attestation-inline=false` is not supported");
    check("type=oci,dest=x,annotation-index[linux/amd64].a=1", "an annotation is none");
    check("type=oci,dest=x,name=A", "lower case");
    check("type=oci,dest=x,source-date-epoch=now", "is no number");
    check("type=image,dest=x", "the local store has no `dest`");
    check("type=registry,dest=x", "a registry has no `dest`");
    check("type=registry,push=false", "is what pushes");
    check("type=image,push-by-digest=true", "`push-by-digest` without `push`");
    check("type=registry,push-by-digest=true,name=r:5000/a:1", "with a tag in `name`");
    check("dest=x", "there is no type");
    check("type=oci,x", "not of the form name=value");
    check("type=oci,\"dest=x", "a quote is not closed");
    check("", "there is no destination");
    let around = Surroundings { stdout_terminal: true, several: false, may_delete: true };
    for text in ["-", "type=tar", "type=oci"] {
        let failure = parse(text, around).expect_err(text);
        assert!(failure.problems[0].message.contains("not written to a terminal"), "{failure:?}");
    }
    assert!(parse("type=local,dest=x,mode=delete", around).is_ok());
}

#[test]
fn trees_of_several_platforms_lie_side_by_side() {
    let around = Surroundings { stdout_terminal: false, several: true, may_delete: false };
    for text in ["out", "-", "type=local,dest=out", "type=tar,dest=x.tar", "type=tar,dest=x.tar,platform-split=true"] {
        let Output::Tree(tree) = parse(text, around).expect(text).output else { panic!("{text}") };
        assert!(tree.split, "{text}");
    }
    let failure = parse("type=local,dest=out,platform-split=false", around).expect_err("files would be overwritten");
    assert!(failure.problems[0].message.contains("overwrite each other"), "{failure:?}");
}
