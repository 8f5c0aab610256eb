process VIRNUCPRO_PREDICT {
    tag "$meta.id"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"
    container 'virnucpro:cpu'

    input:
    tuple val(meta), path(fasta)
    val model

    output:
    tuple val(meta), path("${prefix}/contigs.tsv"), emit: contigs
    tuple val(meta), path("${prefix}/virus_summary.tsv"), emit: summary
    tuple val(meta), path("${prefix}/virus.fna"), emit: virus
    tuple val(meta), path("${prefix}/regions.tsv"), emit: regions
    tuple val(meta), path("${prefix}/report.html"), emit: report
    tuple val(meta), path("${prefix}/multiqc_mqc.json"), emit: multiqc
    tuple val(meta), path("${prefix}/failed_files.txt"), emit: failed, optional: true
    path "versions.yml", emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    export OMP_NUM_THREADS=${task.cpus} HF_HOME="\$PWD/hf" MPLCONFIGDIR="\$PWD/mpl"
    code=0
    virnucpro predict ${fasta} --model ${model} --output-dir ${prefix} --quiet ${args} || code=\$?
    [ "\$code" -eq 0 ] || [ "\$code" -eq 2 ] || exit "\$code"

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        virnucpro: \$(virnucpro --version)
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir -p ${prefix}
    for file in contigs.tsv virus_summary.tsv virus.fna regions.tsv report.html multiqc_mqc.json; do
        touch ${prefix}/\$file
    done

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        virnucpro: \$(virnucpro --version)
    END_VERSIONS
    """
}
