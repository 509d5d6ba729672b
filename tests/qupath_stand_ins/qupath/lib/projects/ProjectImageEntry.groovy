package qupath.lib.projects

class ProjectImageEntry {
    String imageName
    String originalImageName
}
