version 1.0

## Which sequences of many samples are viral: one task a sample.

workflow virnucpro {
    input {
        Array[File]+ samples
        String model = "mini"
        String image = "virnucpro:cpu"
    }
    scatter (sample in samples) {
        call predict { input: sequences = sample, model = model, image = image }
    }
    output {
        Array[File] contigs = predict.contigs
        Array[File] virus = predict.virus
        Array[File] reports = predict.report
    }
}

task predict {
    input {
        File sequences
        String model = "mini"
        Int? min_length
        Boolean conservative = false
        Int cpu = 4
        Int memory_gb = 8
        String image = "virnucpro:cpu"
    }
    command <<<
        set -euo pipefail
        code=0
        OMP_NUM_THREADS=~{cpu} virnucpro predict '~{sequences}' --model '~{model}' --output-dir out \
            ~{if defined(min_length) then "--min-length " + min_length else ""} \
            ~{true="--conservative" false="" conservative} --quiet || code=$?
        # 2: some records failed; they are listed in failed_files.txt
        [ "$code" -eq 0 ] || [ "$code" -eq 2 ] || exit "$code"
    >>>
    output {
        File contigs = "out/contigs.tsv"
        File summary = "out/virus_summary.tsv"
        File virus = "out/virus.fna"
        File report = "out/report.html"
        File run = "out/run.json"
    }
    runtime {
        docker: image
        cpu: cpu
        memory: "~{memory_gb} GB"
        preemptible: 1
    }
}
